//! The stages of a start, as bars of one arm each.

use super::forest::short;
use super::{Anchor, Canvas, Format};
use crate::format;
use crate::page::theme::Ink;

/// One arm's start.
pub(crate) struct Bar {
    /// The arm's label, with the condition.
    pub(crate) label: String,
    /// Its colour.
    pub(crate) ink: Ink,
    /// The stages in order.
    pub(crate) segments: Vec<Segment>,
}

/// One stage.
pub(crate) struct Segment {
    /// Its name.
    pub(crate) name: String,
    /// How long it took, nanoseconds.
    pub(crate) ns: f64,
}

/// A bar an arm, each on a scale of its own, since arms differ a thousandfold.
pub(crate) fn stages(format: Format, bars: &[&Bar]) -> Result<Canvas, String> {
    let width = format.width();
    let row = 74.0;
    let mut canvas = Canvas::new(width, bars.len() as f64 * row + 2.0);
    for (index, bar) in bars.iter().enumerate() {
        let top = index as f64 * row;
        let total: f64 = bar.segments.iter().map(|s| s.ns).sum();
        canvas.bold(
            0.0,
            top + 10.0,
            &short(&bar.label, 40),
            12.5,
            Ink::Text,
            Anchor::Start,
        );
        canvas.text(
            width,
            top + 10.0,
            &format::duration(total),
            12.5,
            Ink::Text,
            Anchor::End,
        );
        if total <= 0.0 {
            continue;
        }
        let mut x = 0.0;
        for (place, segment) in bar.segments.iter().enumerate() {
            let part = segment.ns / total * width;
            let opacity = [0.92, 0.62][place % 2];
            canvas.rect(x, top + 22.0, (part - 1.0).max(0.6), 18.0, bar.ink, opacity);
            // A label needs about 6.5 pixels a character; the table has every stage.
            let room = (part / 6.5) as usize;
            if room >= 4 {
                canvas.text(
                    x,
                    top + 50.0,
                    &short(&segment.name, room),
                    10.5,
                    Ink::Muted,
                    Anchor::Start,
                );
            }
            x += part;
        }
    }
    Ok(canvas)
}
