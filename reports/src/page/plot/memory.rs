//! Memory against the number of instances, with the fitted line.

use super::distribution::plain;
use super::forest::short;
use super::{Anchor, Canvas, Decades, Format};
use crate::format;
use crate::page::theme::Ink;
use crate::stats::Line;

/// One arm's points.
pub(crate) struct Slope {
    /// The arm's label.
    pub(crate) label: String,
    /// Its colour.
    pub(crate) ink: Ink,
    /// Instances and bytes.
    pub(crate) points: Vec<(f64, f64)>,
    /// The line through them.
    pub(crate) line: Option<Line>,
}

/// Points and lines on logarithmic axes, where a megabyte and a gigabyte an instance can both be seen.
pub(crate) fn memory(format: Format, slopes: &[&Slope]) -> Result<Canvas, String> {
    let width = format.width();
    let narrow = format.is_narrow();
    let (left, right, top, bottom) = (64.0, width - if narrow { 14.0 } else { 232.0 }, 10.0, 280.0);
    let legend = if narrow {
        slopes.len() as f64 * 18.0
    } else {
        0.0
    };
    let mut canvas = Canvas::new(width, bottom + 46.0 + legend);
    let all = || slopes.iter().flat_map(|s| &s.points);
    let none = "there is no positive value";
    let x = Decades::over(all().map(|p| p.0), left, right).ok_or(none)?;
    let y = Decades::over(all().map(|p| p.1), bottom, top).ok_or(none)?;
    let mut counts: Vec<u64> = all().map(|p| p.0 as u64).collect();
    counts.sort_unstable();
    counts.dedup();
    for count in counts {
        let at = x.at(count as f64);
        canvas.line(&[(at, top), (at, bottom)], Ink::Rule, 0.75);
        canvas.text(
            at,
            bottom + 14.0,
            &count.to_string(),
            11.0,
            Ink::Muted,
            Anchor::Middle,
        );
    }
    let middle = (left + right) / 2.0;
    canvas.text(
        middle,
        bottom + 32.0,
        "instances",
        11.0,
        Ink::Muted,
        Anchor::Middle,
    );
    // Binary multiples read better than powers of ten of bytes.
    for power in 10..50 {
        let bytes = 2f64.powi(power);
        let inside = y.at(bytes * 0.999) != y.at(bytes) && y.at(bytes * 1.001) != y.at(bytes);
        if power % 4 == 0 && inside {
            canvas.line(
                &[(left, y.at(bytes)), (right, y.at(bytes))],
                Ink::Rule,
                0.75,
            );
            let text = plain(&format::bytes(bytes));
            canvas.text(
                left - 6.0,
                y.at(bytes),
                &text,
                11.0,
                Ink::Muted,
                Anchor::End,
            );
        }
    }
    let mut labels: Vec<(f64, usize)> = Vec::new();
    for (index, slope) in slopes.iter().enumerate() {
        let (first, last) = slope
            .points
            .iter()
            .fold((f64::INFINITY, 0.0f64), |(a, b), p| {
                (a.min(p.0), b.max(p.0))
            });
        if let Some(line) = slope.line {
            let path: Vec<(f64, f64)> = (0..=40)
                .map(|step| first * (last / first).powf(f64::from(step) / 40.0))
                .map(|n| (n, line.intercept + line.slope * n))
                .filter(|(_, bytes)| *bytes > 0.0)
                .map(|(n, bytes)| (x.at(n), y.at(bytes)))
                .collect();
            canvas.line(&path, slope.ink, 1.4);
        }
        for (n, bytes) in &slope.points {
            canvas.dot(x.at(*n), y.at(*bytes), 3.4, slope.ink, 0.9);
        }
        let end = slope.points.iter().filter(|p| p.0 == last).map(|p| p.1);
        labels.push((y.at(end.fold(0.0, f64::max)), index));
    }
    labels.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut below = f64::NEG_INFINITY;
    for (place, (at, index)) in labels.into_iter().enumerate() {
        let slope = &slopes[index];
        let text = match slope.line {
            Some(line) => format!("{}: {}", short(&slope.label, 24), format::bytes(line.slope)),
            None => short(&slope.label, 24),
        };
        if narrow {
            let at = bottom + 56.0 + place as f64 * 18.0;
            canvas.dot(left - 50.0, at, 4.0, slope.ink, 1.0);
            canvas.text(left - 38.0, at, &text, 12.0, Ink::Text, Anchor::Start);
        } else {
            let at = at.max(below + 16.0);
            below = at;
            canvas.text(right + 14.0, at, &text, 12.0, Ink::Text, Anchor::Start);
        }
    }
    Ok(canvas)
}
