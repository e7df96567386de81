//! Aligned columns of text, for people at a terminal.

/// Aligns `rows` in columns two spaces apart. Columns for which `is_right` is true, as those of
/// numbers, are aligned to the right.
pub(crate) fn aligned(rows: &[Vec<String>], is_right: impl Fn(usize) -> bool) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            line.push_str(&if is_right(column) {
                format!("{cell:>width$}  ")
            } else {
                format!("{cell:<width$}  ")
            });
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["NAME", "COUNT"], ["ä", "10"], ["longer", "7"]];
        let rows = rows.map(|row| row.map(str::to_owned).to_vec());
        let expected = "\
NAME    COUNT
ä          10
longer      7
";
        assert_eq!(aligned(&rows, |column| column == 1), expected);
        assert_eq!(aligned(&[], |_| true), "");
    }
}
