//! The load-line gauge: how deep each arm sits in the water. Native floats at the waterline; what an arm costs
//! more presses it down; the load line lies at the margin.

use super::forest::{short, tick_text};
use super::{Anchor, Canvas, Format, Stretched};
use crate::format;
use crate::page::theme::Ink;
use crate::rules::MARGIN;

/// One arm.
pub(crate) struct Hull {
    /// The arm's label.
    pub(crate) label: String,
    /// Lines below it: its badge, and how many metrics are missing from its depth.
    pub(crate) notes: Vec<String>,
    /// Its colour.
    pub(crate) ink: Ink,
    /// The cost of each metric that counts, in units of native's.
    pub(crate) costs: Vec<f64>,
    /// The cost of each metric that is only reported.
    pub(crate) reported: Vec<f64>,
    /// The geometric mean of `costs`: how deep it sits.
    pub(crate) draught: Option<f64>,
}

/// Hulls side by side in the sea.
pub(crate) fn gauge(format: Format, hulls: &[Hull]) -> Result<Canvas, String> {
    let width = format.width();
    let narrow = format.is_narrow();
    let (left, right) = (
        if narrow { 48.0 } else { 66.0 },
        width - if narrow { 0.0 } else { 74.0 },
    );
    let (top, bottom) = (58.0, if narrow { 330.0 } else { 350.0 });
    let mut canvas = Canvas::new(width, bottom + 68.0);
    let depth = Stretched::over(
        hulls
            .iter()
            .flat_map(|h| h.costs.iter().chain(&h.reported).copied()),
        top,
        bottom,
    );
    let surface = depth.at(1.0);
    let load = depth.at(1.0 + MARGIN);
    canvas.rect(left, surface, right - left, bottom - surface, Ink::Sea, 1.0);
    for tick in depth.ticks(17.0) {
        let y = depth.at(tick);
        canvas.line(&[(left - 5.0, y), (left, y)], Ink::Muted, 1.0);
        canvas.text(
            left - 8.0,
            y,
            &tick_text(tick),
            11.0,
            Ink::Muted,
            Anchor::End,
        );
    }
    let column = (right - left) / hulls.len().max(1) as f64;
    let breadth = (column * 0.62).min(96.0);
    for (index, hull) in hulls.iter().enumerate() {
        let middle = left + (index as f64 + 0.5) * column;
        if let Some(draught) = hull.draught {
            let keel = depth.at(draught).max(surface - 8.0);
            let deck = surface - 26.0;
            let half = breadth / 2.0;
            let rise = (half * 0.5).min((keel - deck) * 0.5);
            // A midship section: straight sides, turned bilges, flat bottom.
            let bilge = |side: f64| {
                (0..=6).map(move |step| {
                    let angle = f64::from(step) / 6.0 * std::f64::consts::FRAC_PI_2;
                    (
                        middle + side * (half - rise + rise * angle.cos()),
                        keel - rise + rise * angle.sin(),
                    )
                })
            };
            let mut outline = vec![(middle - half, deck), (middle + half, deck)];
            outline.extend(bilge(1.0));
            let port: Vec<(f64, f64)> = bilge(-1.0).collect();
            outline.extend(port.into_iter().rev());
            canvas.area(&outline, hull.ink, 0.26);
            outline.push((middle - half, deck));
            canvas.line(&outline, hull.ink, 1.6);
            let size = if narrow { 11.5 } else { 14.0 };
            canvas.bold(
                middle,
                deck - 12.0,
                &format::ratio(draught),
                size,
                Ink::Text,
                Anchor::Middle,
            );
        }
        let spread = |place: usize, count: usize| {
            let part = (place as f64 + 0.5) / count.max(1) as f64 - 0.5;
            middle + part * breadth * 0.8
        };
        for (place, cost) in hull.costs.iter().enumerate() {
            canvas.dot(
                spread(place, hull.costs.len()),
                depth.at(*cost),
                3.2,
                hull.ink,
                1.0,
            );
        }
        for (place, cost) in hull.reported.iter().enumerate() {
            canvas.ring(
                spread(place, hull.reported.len()),
                depth.at(*cost),
                3.0,
                hull.ink,
            );
        }
        let most = (column / if narrow { 5.6 } else { 6.4 }) as usize;
        let size = if narrow { 10.5 } else { 12.5 };
        // Long labels take several lines on a phone.
        let lines = broken(&hull.label, most);
        for (line, text) in lines.iter().enumerate() {
            canvas.text(
                middle,
                bottom + 12.0 + line as f64 * 12.0,
                text,
                size,
                Ink::Text,
                Anchor::Middle,
            );
        }
        let below = bottom + 13.0 + lines.len() as f64 * 12.0;
        for (line, text) in hull.notes.iter().enumerate() {
            let y = below + line as f64 * 12.0;
            canvas.text(middle, y, text, size - 1.0, Ink::Load, Anchor::Middle);
        }
    }
    canvas.line(&[(left, surface), (right, surface)], Ink::Text, 1.4);
    canvas.dashes((left, load), (right, load), Ink::Load, 1.4);
    if !narrow {
        // Plimsoll's mark: the disc on the load line.
        let disc = (right + 22.0, load);
        canvas.ring(disc.0, disc.1, 9.0, Ink::Load);
        canvas.line(
            &[(disc.0 - 15.0, disc.1), (disc.0 + 15.0, disc.1)],
            Ink::Load,
            1.8,
        );
        canvas.text(
            right + 6.0,
            load + 20.0,
            "load line",
            11.0,
            Ink::Load,
            Anchor::Start,
        );
        canvas.text(
            right + 6.0,
            load + 34.0,
            "+5 %",
            11.0,
            Ink::Load,
            Anchor::Start,
        );
        canvas.text(
            right + 6.0,
            surface - 9.0,
            "native",
            11.0,
            Ink::Muted,
            Anchor::Start,
        );
    }
    Ok(canvas)
}

/// A label in at most three lines, broken at spaces.
fn broken(label: &str, most: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in label.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= most => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    if lines.len() > 3 {
        lines.truncate(3);
        lines[2].push('…');
    }
    lines.iter().map(|line| short(line, most.max(4))).collect()
}
