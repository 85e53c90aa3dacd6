//! The plots. Each is drawn twice, wide and narrow, because text that is scaled down with a picture cannot be
//! read on a phone; the style sheet shows one of them.

use maud::{Markup, PreEscaped, html};

use crate::Error;

mod canvas;
pub(crate) mod distribution;
pub(crate) mod forest;
pub(crate) mod gauge;
pub(crate) mod memory;
mod scale;
pub(crate) mod stages;

use canvas::{Anchor, Canvas};
pub(crate) use distribution::{cumulative, strips};
pub(crate) use forest::{forest, short};
pub(crate) use memory::memory;
use scale::{Decades, Stretched};
pub(crate) use stages::stages;

/// The width of both drawings, CSS pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// For a window of 700 pixels and more, and for paper.
    Wide,
    /// For a phone: between the room that a page of 320 pixels leaves, 276, and one of 390, 346.
    Narrow,
}

impl Format {
    /// Width of the drawing.
    pub(crate) fn width(self) -> f64 {
        match self {
            Self::Wide => 880.0,
            Self::Narrow => 320.0,
        }
    }

    /// Whether it is the narrow one.
    pub(crate) fn is_narrow(self) -> bool {
        self == Self::Narrow
    }
}

/// A figure with its caption, drawn by `draw` in both formats. `what` names it in an error; `alt` says what it
/// shows to those who cannot see it.
pub(crate) fn figure(
    what: &str,
    alt: &str,
    caption: Markup,
    draw: impl Fn(Format) -> Result<Canvas, String>,
) -> Result<Markup, Error> {
    let render = |format: Format| -> Result<Markup, Error> {
        let (view, body) = draw(format)
            .and_then(Canvas::finish)
            .map_err(|why| Error::Plot {
                what: what.to_owned(),
                why,
            })?;
        let class = if format.is_narrow() { "narrow" } else { "wide" };
        Ok(html! {
            svg class=(class) viewBox=(view) role="img" aria-label=(alt) xmlns="http://www.w3.org/2000/svg" {
                (PreEscaped(body))
            }
        })
    };
    Ok(html! {
        figure { (render(Format::Wide)?) (render(Format::Narrow)?) figcaption { (caption) } }
    })
}
