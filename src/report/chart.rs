//! Charts as SVG.

use std::ops::Range;

use plotters::{
    coord::{Shift, types::RangedCoordf64},
    prelude::{
        Cartesian2d, ChartBuilder, ChartContext, Circle, Color, Cross, DrawingArea,
        DrawingAreaErrorKind, EmptyElement, IntoDrawingArea, IntoFont, LineSeries, PathElement,
        RGBColor, Rectangle, SVGBackend, Text, TriangleMarker,
    },
    style::{
        TextStyle,
        text_anchor::{HPos, Pos, VPos},
    },
};

use super::{
    format,
    model::{Chart, Colour, Panel, Series},
};

/// Width and height of a picture.
const SIZE: (u32, u32) = (760, 280);

/// Height of the legend above the chart.
const LEGEND: u32 = 26;

/// Size of writing.
const FONT: i32 = 12;

/// Markers on each line, beside its colour, so that lines are told apart without colours.
const MARKERS: usize = 9;

/// Room above the highest value.
const HEADROOM: f64 = 1.08;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Plot<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

/// Returns a panel of a chart as SVG. Its values reach from 0 to `highest`.
pub(super) fn svg(chart: &Chart, panel: &Panel, highest: f64) -> String {
    let mut text = String::new();
    // Drawing to a string has no I/O that could fail.
    let drawn = draw(&mut text, chart, panel, highest);
    debug_assert!(drawn.is_ok(), "{drawn:?}");
    let label = format!("role=\"img\" aria-label=\"{}\" xmlns=", maud::html! { (chart.title) }.0);
    text.replacen("xmlns=", &label, 1)
}

fn draw(text: &mut String, chart: &Chart, panel: &Panel, highest: f64) -> Drawn {
    let root = SVGBackend::with_string(text, SIZE).into_drawing_area();
    let (legend, area) = root.split_vertically(LEGEND);
    let series = panel.drawn();
    draw_legend(&legend, &series)?;
    let seconds = seconds(panel);
    let mut plot: Plot<'_> = ChartBuilder::on(&area)
        .margin_right(24)
        .margin_top(4)
        .x_label_area_size(26)
        .y_label_area_size(62)
        .build_cartesian_2d(seconds, 0.0..highest * HEADROOM)?;
    plot.configure_mesh()
        .disable_x_mesh()
        .light_line_style(colour(Colour::Line).mix(0.0))
        .bold_line_style(colour(Colour::Line))
        .axis_style(colour(Colour::Muted))
        .label_style(writing(Colour::Muted))
        .x_labels(7)
        .y_labels(5)
        .x_label_formatter(&|at| format::clock(panel.started_at, *at))
        .y_label_formatter(&|value| format::tick(*value, chart.unit))
        .draw()?;
    for (index, series) in series.iter().enumerate() {
        draw_series(&mut plot, series, index)?;
    }
    for (index, event) in panel.events.iter().enumerate() {
        let top = highest * HEADROOM;
        let line = [(event.at_s, 0.0), (event.at_s, top)];
        let style = colour(Colour::Text).stroke_width(1);
        plot.draw_series([PathElement::new(line, style)])?;
        let number = (index + 1).to_string();
        plot.draw_series([Text::new(number, (event.at_s, top), writing(Colour::Text))])?;
    }
    root.present()
}

fn draw_legend(area: &Area<'_>, series: &[Series]) -> Drawn {
    let mut left = 62;
    for (index, series) in series.iter().enumerate() {
        let colour = colour(series.colour);
        let (middle, right) = (13, left + 22);
        area.draw(&Rectangle::new([(left, middle - 1), (right, middle + 1)], colour.filled()))?;
        draw_marker(area, (left + 11, middle), index, colour)?;
        let style = writing(Colour::Text).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw(&Text::new(series.name.clone(), (right + 6, middle), style))?;
        left = right + 28 + series.name.chars().count() as i32 * 7;
    }
    Ok(())
}

fn draw_marker(area: &Area<'_>, at: (i32, i32), index: usize, colour: RGBColor) -> Drawn {
    match index % 4 {
        0 => area.draw(&Circle::new(at, 3, colour.filled())),
        1 => area.draw(&TriangleMarker::new(at, 5, colour.filled())),
        2 => area.draw(&Cross::new(at, 4, colour.stroke_width(2))),
        _ => {
            let corners = [(at.0 - 3, at.1 - 3), (at.0 + 3, at.1 + 3)];
            area.draw(&Rectangle::new(corners, colour.filled()))
        }
    }
}

fn draw_series(plot: &mut Plot<'_>, series: &Series, index: usize) -> Drawn {
    let colour = colour(series.colour);
    let points = series.points.iter().copied();
    plot.draw_series(LineSeries::new(points, colour.stroke_width(2)))?;
    let step = (series.points.len() / MARKERS).max(1);
    // Lines that lie on each other show different points.
    let marked = series.points.iter().copied().skip(index * step / 4).step_by(step);
    match index % 4 {
        0 => plot.draw_series(marked.map(|at| Circle::new(at, 3, colour.filled())))?,
        1 => plot.draw_series(marked.map(|at| TriangleMarker::new(at, 5, colour.filled())))?,
        2 => plot.draw_series(marked.map(|at| Cross::new(at, 4, colour.stroke_width(2))))?,
        _ => plot.draw_series(marked.map(|at| {
            EmptyElement::at(at) + Rectangle::new([(-3, -3), (3, 3)], colour.filled())
        }))?,
    };
    Ok(())
}

/// Returns the seconds that a panel spans: those of its points and events.
fn seconds(panel: &Panel) -> Range<f64> {
    let points = panel.series.iter().flat_map(|series| &series.points).map(|point| point.0);
    let events = panel.events.iter().map(|event| event.at_s);
    0.0..points.chain(events).fold(1.0, f64::max)
}

fn writing(of: Colour) -> TextStyle<'static> {
    ("system-ui, sans-serif", FONT).into_font().color(&colour(of))
}

fn colour(colour: Colour) -> RGBColor {
    let (light, _) = colour.rgb();
    let [_, red, green, blue] = light.to_be_bytes();
    RGBColor(red, green, blue)
}
