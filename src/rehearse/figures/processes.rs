//! Memory, processors, threads and pauses.

use super::{Rows, chart, peak};
use crate::{
    rehearse::{
        run::Run,
        sample::{ProcessSample, Sample},
    },
    report::{Colour, Section, Series, Unit},
};

/// A process over time.
struct Process {
    id: String,
    name: String,
    colour: Colour,
    samples: Vec<(f64, ProcessSample)>,
}

fn all_processes(run: &Run) -> Vec<Process> {
    let nodes = (0..run.nodes).map(|index| Process {
        id: if run.nodes == 1 { "node".to_owned() } else { format!("node_{}", index + 1) },
        name: if run.nodes == 1 { "node".to_owned() } else { format!("node {}", index + 1) },
        colour: if index == 0 { Colour::Accent } else { Colour::Issued },
        samples: samples(run, |sample| sample.nodes.get(index)?.as_ref().map(|node| node.process)),
    });
    let engines = run.engines.iter().enumerate().map(|(index, (name, _))| Process {
        id: name.to_lowercase(),
        name: name.clone(),
        colour: if index == 0 { Colour::Warn } else { Colour::Closed },
        samples: samples(run, |sample| *sample.engines.get(index)?),
    });
    nodes.chain(engines).collect()
}

fn samples(run: &Run, of: impl Fn(&Sample) -> Option<ProcessSample>) -> Vec<(f64, ProcessSample)> {
    run.samples.iter().filter_map(|sample| Some((sample.at_s, of(sample)?))).collect()
}

pub(super) fn processes(run: &Run) -> Section {
    let all = all_processes(run);
    let mut rows = Rows::of(run);
    let (mut cpu, mut memory) = (Vec::new(), Vec::new());
    for process in &all {
        let Process { id, name, colour, samples } = process;
        let most = |of: fn(&ProcessSample) -> f64| {
            samples.iter().map(|(_, sample)| of(sample)).reduce(f64::max)
        };
        let used = cores(samples);
        rows.add(
            &format!("{id}_memory"),
            &format!("{name}: memory, most"),
            most(|it| it.memory),
            Unit::Bytes,
        );
        rows.add(
            &format!("{id}_cpu_mean"),
            &format!("{name}: processor, average"),
            mean(&used),
            Unit::Cores,
        );
        rows.add(
            &format!("{id}_cpu"),
            &format!("{name}: processor, most"),
            peak(&used),
            Unit::Cores,
        );
        rows.add(
            &format!("{id}_threads"),
            &format!("{name}: threads, most"),
            most(|it| it.threads),
            Unit::Count,
        );
        let resident = samples.iter().map(|(at, sample)| (*at, sample.memory)).collect();
        cpu.push(Series { name: name.clone(), colour: *colour, points: used });
        memory.push(Series { name: name.clone(), colour: *colour, points: resident });
    }
    for (name, pauses) in &run.engines {
        let Some(pauses) = pauses else { continue };
        let id = name.to_lowercase();
        let mut add = |what: &str, title: &str, value: f64, unit: Unit| {
            rows.add(&format!("{id}_{what}"), &format!("{name}: {title}"), Some(value), unit);
        };
        add("pauses", "pauses", pauses.count, Unit::Count);
        add("pause_max", "longest pause", pauses.longest_ms, Unit::Milliseconds);
        add("pauses_total", "pauses, together", pauses.total_ms, Unit::Milliseconds);
    }
    Section {
        title: "Nodes and engines".to_owned(),
        text: Vec::new(),
        table: rows.table(),
        charts: vec![
            chart(run, "cpu", "Processors used", Unit::Cores, cpu),
            chart(run, "memory", "Resident memory, MiB", Unit::Bytes, memory),
        ],
    }
}

/// Returns the processors used between each two samples that are about a second apart.
fn cores(samples: &[(f64, ProcessSample)]) -> Vec<(f64, f64)> {
    let pairs = samples.windows(2).filter(|pair| pair[1].0 - pair[0].0 > 0.5);
    pairs
        .map(|pair| {
            let used = (pair[1].1.cpu_s - pair[0].1.cpu_s).max(0.0);
            (pair[1].0, used / (pair[1].0 - pair[0].0))
        })
        .collect()
}

fn mean(points: &[(f64, f64)]) -> Option<f64> {
    let sum: f64 = points.iter().map(|point| point.1).sum();
    (!points.is_empty()).then(|| sum / points.len() as f64)
}
