//! Columns from tabs, as Go's tabwriter aligns them for docker: a column is as wide as its widest cell and three spaces
//! more, and at least ten.

/// Least width of a column.
const LEAST: usize = 10;
/// Spaces after the widest cell.
const PADDING: usize = 3;

/// Aligns lines whose cells end with tabs. A column reaches over the lines one below the other that have it.
pub(super) fn align(text: &str) -> String {
    let lines: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split('\t').collect())
        .collect();
    let mut widths: Vec<Vec<usize>> = lines
        .iter()
        .map(|cells| vec![0; cells.len().saturating_sub(1)])
        .collect();
    let most = widths.iter().map(Vec::len).max().unwrap_or(0);
    for column in 0..most {
        let mut start = 0;
        while start < lines.len() {
            let end = widths
                .iter()
                .skip(start)
                .position(|row| row.len() <= column)
                .map_or(lines.len(), |length| start + length);
            let widest = lines
                .iter()
                .take(end)
                .skip(start)
                .filter_map(|cells| cells.get(column))
                .map(|cell| cell.chars().count() + PADDING)
                .max()
                .unwrap_or(0);
            for row in widths.iter_mut().take(end).skip(start) {
                if let Some(width) = row.get_mut(column) {
                    *width = widest.max(LEAST);
                }
            }
            start = end.max(start) + 1;
        }
    }
    let mut out = String::new();
    for (cells, widths) in lines.iter().zip(&widths) {
        for (index, cell) in cells.iter().enumerate() {
            out.push_str(cell);
            if let Some(width) = widths.get(index) {
                out.extend(std::iter::repeat_n(
                    ' ',
                    width.saturating_sub(cell.chars().count()),
                ));
            }
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_three_spaces_apart_and_ten_wide_at_least() {
        assert_eq!(
            align("REPOSITORY\tTAG\tSIZE\nubuntu\tlatest\t78MB\n"),
            "REPOSITORY   TAG       SIZE\nubuntu       latest    78MB\n"
        );
    }

    #[test]
    fn a_line_without_a_column_ends_it() {
        assert_eq!(
            align("a\tb\nwords alone\nlonger than ten\tb\n"),
            "a         b\nwords alone\nlonger than ten   b\n"
        );
    }

    #[test]
    fn width_is_counted_in_characters() {
        assert_eq!(
            align("\"/bin/sé…\"\tb\nlonger-cell\tc\n"),
            "\"/bin/sé…\"    b\nlonger-cell   c\n"
        );
    }
}
