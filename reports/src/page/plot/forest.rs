//! The forest plot: a ratio to native with its interval for every metric and arm, against the margin.

use super::{Anchor, Canvas, Format, Stretched};
use crate::format;
use crate::page::theme::Ink;
use crate::rules::MARGIN;
use crate::stats::Interval;

/// One metric with its arms.
pub(crate) struct Block {
    /// The metric's title.
    pub(crate) title: String,
    /// A row for each arm.
    pub(crate) marks: Vec<Mark>,
}

/// One arm on one metric.
pub(crate) struct Mark {
    /// The arm's label.
    pub(crate) label: String,
    /// Its colour.
    pub(crate) ink: Ink,
    /// The ratio with its interval; otherwise the words that stand in its place.
    pub(crate) ratio: Result<(f64, Option<Interval>), String>,
    /// Whether the row is not decided in this run; it is then drawn as a ring.
    pub(crate) hollow: bool,
}

/// The room for arms' labels before a wide plot, pixels.
pub(crate) const LABELS: f64 = 248.0;

/// Letters of a label that fit there at 12.5 pixels, in a wide font.
pub(crate) const LABEL_LETTERS: usize = 33;

/// Rows of intervals around 1 on the stretched axis.
pub(crate) fn forest(format: Format, blocks: &[Block]) -> Result<Canvas, String> {
    let width = format.width();
    let narrow = format.is_narrow();
    let (left, row) = if narrow { (8.0, 38.0) } else { (LABELS, 21.0) };
    let right = width - if narrow { 8.0 } else { 92.0 };
    let head = if narrow { 26.0 } else { 24.0 };
    let gap = 12.0;
    let height: f64 = blocks
        .iter()
        .map(|b| head + b.marks.len() as f64 * row + gap)
        .sum::<f64>()
        + 30.0;
    let bottom = height - 26.0;
    let mut canvas = Canvas::new(width, height);
    let values = blocks
        .iter()
        .flat_map(|b| &b.marks)
        .filter_map(|m| m.ratio.as_ref().ok());
    let axis = Stretched::over(
        values.flat_map(|(value, interval)| {
            let ends = interval.map_or([*value; 2], |i| [i.low, i.high]);
            [*value, ends[0], ends[1]]
        }),
        left,
        right,
    );
    let (from, to) = (axis.at(1.0 - MARGIN), axis.at(1.0 + MARGIN));
    canvas.rect(from, 0.0, to - from, bottom, Ink::Band, 1.0);
    for tick in axis.ticks(if narrow { 34.0 } else { 40.0 }) {
        let x = axis.at(tick);
        let (ink, weight) = if tick == 1.0 {
            (Ink::Text, 1.2)
        } else {
            (Ink::Rule, 0.75)
        };
        canvas.line(&[(x, 0.0), (x, bottom + 3.0)], ink, weight);
        canvas.text(
            x,
            bottom + 14.0,
            &tick_text(tick),
            11.0,
            Ink::Muted,
            Anchor::Middle,
        );
    }
    let mut top = gap / 2.0;
    for (index, block) in blocks.iter().enumerate() {
        if index > 0 {
            canvas.line(
                &[(0.0, top - gap / 2.0), (width, top - gap / 2.0)],
                Ink::Rule,
                0.75,
            );
        }
        let (x, size) = if narrow { (left, 12.0) } else { (0.0, 12.5) };
        let title = short(&block.title, if narrow { 40 } else { 100 });
        canvas.bold(x, top + 12.0, &title, size, Ink::Text, Anchor::Start);
        top += head;
        for mark in &block.marks {
            let middle = if narrow { top + 27.0 } else { top + row / 2.0 };
            let text = match &mark.ratio {
                Ok((value, _)) => format::ratio(*value),
                Err(words) => words.clone(),
            };
            if narrow {
                canvas.text(
                    left,
                    top + 11.0,
                    &short(&mark.label, 34),
                    11.5,
                    Ink::Muted,
                    Anchor::Start,
                );
                canvas.text(right, top + 11.0, &text, 11.5, Ink::Text, Anchor::End);
            } else {
                canvas.text(
                    left - 12.0,
                    middle,
                    &short(&mark.label, LABEL_LETTERS),
                    12.0,
                    Ink::Muted,
                    Anchor::End,
                );
                canvas.text(width - 2.0, middle, &text, 12.0, Ink::Text, Anchor::End);
            }
            if let Ok((value, interval)) = &mark.ratio {
                if let Some(interval) = interval {
                    let (from, to) = (axis.at(interval.low), axis.at(interval.high));
                    canvas.line(&[(from, middle), (to, middle)], mark.ink, 2.2);
                    for end in [from, to] {
                        canvas.line(&[(end, middle - 4.0), (end, middle + 4.0)], mark.ink, 1.4);
                    }
                }
                let x = axis.at(*value);
                if mark.hollow {
                    canvas.dot(x, middle, 4.4, Ink::Panel, 1.0);
                    canvas.ring(x, middle, 4.0, mark.ink);
                } else {
                    canvas.dot(x, middle, 4.4, mark.ink, 1.0);
                }
            }
            top += row;
        }
        top += gap;
    }
    Ok(canvas)
}

/// A ratio along an axis.
pub(crate) fn tick_text(ratio: f64) -> String {
    if ratio == 1.0 {
        "1×".to_owned()
    } else {
        format!("{ratio}×")
    }
}

/// At most `most` characters, the last of them an ellipsis where some are left out.
pub(crate) fn short(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        text.to_owned()
    } else {
        text.chars()
            .take(most.saturating_sub(1))
            .chain(['…'])
            .collect()
    }
}
