//! Distributions: every sample of every arm as a dot in a strip, and cumulative shares.

use super::forest::{LABEL_LETTERS, LABELS, short};
use super::{Anchor, Canvas, Decades, Format};
use crate::format;
use crate::page::theme::Ink;
use crate::results::Unit;
use crate::stats::{Interval, Rng, ecdf};

/// One arm's samples.
pub(crate) struct Strip {
    /// The arm's label.
    pub(crate) label: String,
    /// Its badge, in a word or two.
    pub(crate) badge: Option<String>,
    /// Its colour.
    pub(crate) ink: Ink,
    /// The samples that count.
    pub(crate) values: Vec<f64>,
    /// Their median.
    pub(crate) median: f64,
    /// Its 95 % interval.
    pub(crate) interval: Option<Interval>,
}

const ROW: f64 = 34.0;

/// Every sample as a dot on a logarithmic axis, a row an arm, with the median as a stroke and its interval as a
/// bar.
pub(crate) fn strips(format: Format, rows: &[Strip], unit: Unit) -> Result<Canvas, String> {
    let width = format.width();
    let narrow = format.is_narrow();
    // On a phone the label stands above its strip instead of before it.
    let (left, row) = if narrow { (6.0, 50.0) } else { (LABELS, ROW) };
    let right = width - if narrow { 8.0 } else { 84.0 };
    let height = rows.len() as f64 * row + 34.0;
    let mut canvas = Canvas::new(width, height);
    let bottom = height - 26.0;
    let axis = Decades::over(
        rows.iter().flat_map(|r| r.values.iter().copied()),
        left,
        right,
    )
    .ok_or("there is no positive value")?;
    grid(
        &mut canvas,
        &axis,
        unit,
        bottom,
        if narrow { 58.0 } else { 70.0 },
    );
    for (index, strip) in rows.iter().enumerate() {
        let top = index as f64 * row;
        let middle = if narrow { top + 34.0 } else { top + row / 2.0 };
        let label = match &strip.badge {
            Some(badge) => {
                let room = LABEL_LETTERS.saturating_sub(badge.chars().count() + 3);
                format!("{} [{badge}]", short(&strip.label, room))
            }
            None => short(&strip.label, LABEL_LETTERS),
        };
        let median = format::value(strip.median, unit);
        if narrow {
            canvas.text(left, top + 13.0, &label, 12.0, Ink::Text, Anchor::Start);
            canvas.bold(right, top + 13.0, &median, 12.0, Ink::Text, Anchor::End);
        } else {
            canvas.text(left - 14.0, middle, &label, 12.5, Ink::Text, Anchor::End);
            canvas.bold(width - 2.0, middle, &median, 12.5, Ink::Text, Anchor::End);
        }
        if let Some(interval) = strip.interval {
            let (from, to) = (axis.at(interval.low), axis.at(interval.high));
            canvas.rect(
                from,
                middle - 11.0,
                (to - from).max(1.0),
                22.0,
                strip.ink,
                0.22,
            );
        }
        // The same file must give the same picture, so the scatter across the strip is seeded by the row.
        let mut rng = Rng::new(index as u64);
        for value in &strip.values {
            let across = (rng.unit() - 0.5) * 15.0;
            canvas.dot(axis.at(*value), middle + across, 2.1, strip.ink, 0.5);
        }
        let x = axis.at(strip.median);
        canvas.line(&[(x, middle - 12.0), (x, middle + 12.0)], strip.ink, 2.0);
    }
    Ok(canvas)
}

/// The share of samples at or below each value, a stepped line an arm.
pub(crate) fn cumulative(format: Format, rows: &[Strip], unit: Unit) -> Result<Canvas, String> {
    let width = format.width();
    let narrow = format.is_narrow();
    let (left, right) = (48.0, width - 8.0);
    let legend_rows = if narrow {
        rows.len().div_ceil(2)
    } else {
        rows.len().div_ceil(4)
    };
    let (top, height) = (
        12.0 + legend_rows as f64 * 18.0,
        260.0 + legend_rows as f64 * 18.0,
    );
    let bottom = height - 26.0;
    let mut canvas = Canvas::new(width, height);
    let axis = Decades::over(
        rows.iter().flat_map(|r| r.values.iter().copied()),
        left,
        right,
    )
    .ok_or("there is no positive value")?;
    let y = |share: f64| bottom - share * (bottom - top);
    for share in [0.0, 0.25, 0.5, 0.75, 1.0] {
        canvas.line(&[(left, y(share)), (right, y(share))], Ink::Rule, 0.75);
        let text = format!("{:.0} %", share * 100.0);
        canvas.text(left - 6.0, y(share), &text, 11.0, Ink::Muted, Anchor::End);
    }
    for tick in axis.ticks(if narrow { 58.0 } else { 70.0 }) {
        let x = axis.at(tick);
        canvas.line(&[(x, top), (x, bottom)], Ink::Rule, 0.75);
        let text = format::value(tick, unit);
        canvas.text(
            x,
            bottom + 14.0,
            &plain(&text),
            11.0,
            Ink::Muted,
            Anchor::Middle,
        );
    }
    for (index, strip) in rows.iter().enumerate() {
        let mut path = Vec::new();
        let mut before = 0.0;
        for (value, share) in ecdf(&strip.values) {
            let x = axis.at(value);
            path.push((x, y(before)));
            path.push((x, y(share)));
            before = share;
        }
        canvas.line(&path, strip.ink, 1.8);
        // Colour alone does not tell the arms apart: each line carries its number in the legend.
        let (columns, letters) = if narrow { (2, 18) } else { (4, 27) };
        let step = (width - 16.0) / columns as f64;
        let (lx, ly) = (
            8.0 + (index % columns) as f64 * step,
            8.0 + (index / columns) as f64 * 18.0,
        );
        canvas.rect(lx, ly - 2.0, 14.0, 4.0, strip.ink, 1.0);
        let text = format!("{} {}", index + 1, short(&strip.label, letters));
        canvas.text(lx + 20.0, ly, &text, 11.5, Ink::Text, Anchor::Start);
        let number = format!("{}", index + 1);
        // Staggered heights keep the numbers of close lines apart.
        let share = 0.2 + 0.3 * (index % 3) as f64;
        let place = strip_quantile(&strip.values, share);
        canvas.dot(axis.at(place), y(share), 7.5, Ink::Panel, 0.95);
        canvas.bold(
            axis.at(place),
            y(share),
            &number,
            11.0,
            Ink::Text,
            Anchor::Middle,
        );
    }
    Ok(canvas)
}

fn strip_quantile(values: &[f64], share: f64) -> f64 {
    crate::stats::quantile(values, share).unwrap_or(1.0)
}

/// Vertical lines of a logarithmic axis with their values below.
fn grid(canvas: &mut Canvas, axis: &Decades, unit: Unit, bottom: f64, room: f64) {
    for tick in axis.ticks(room) {
        let x = axis.at(tick);
        canvas.line(&[(x, 0.0), (x, bottom + 3.0)], Ink::Rule, 0.75);
        let text = plain(&format::value(tick, unit));
        canvas.text(x, bottom + 15.0, &text, 11.0, Ink::Muted, Anchor::Middle);
    }
}

/// A tick's value without digits that say nothing: `10.0 ms` is `10 ms`.
pub(crate) fn plain(text: &str) -> String {
    match text.split_once(' ') {
        Some((number, unit)) if number.contains('.') => {
            let number = number.trim_end_matches('0').trim_end_matches('.');
            format!("{number} {unit}")
        }
        _ => text.to_owned(),
    }
}
