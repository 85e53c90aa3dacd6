//! A drawing surface over plotters' SVG backend that knows the page's colours by name.
//!
//! plotters writes colours as numbers and places things on whole units. Colours are therefore drawn as
//! stand-ins and replaced by the style sheet's variables at the end, so that one drawing serves light, dark and
//! print; and a CSS pixel is [`FINE`] units.

use plotters::coord::Shift;
use plotters::drawing::DrawingAreaErrorKind;
use plotters::element::Drawable;
use plotters::prelude::{
    Circle, DrawingArea, IntoDrawingArea, PathElement, Polygon, RGBAColor, RGBColor, Rectangle,
    SVGBackend, ShapeStyle, Text,
};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, FontStyle, FontTransform, IntoFont, TextStyle};

use crate::page::theme::{Ink, PALETTE};

/// Units of the drawing in one CSS pixel.
const FINE: f64 = 4.0;

/// plotters divides a font's size by this when it writes it.
const FONT_DIVISOR: f64 = 1.24;

/// Where a text's position lies in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Anchor {
    /// At its left end.
    Start,
    /// In its middle.
    Middle,
    /// At its right end.
    End,
}

/// A shape to be drawn, in CSS pixels.
enum Shape {
    Line(Vec<(f64, f64)>, Ink, f64, f64),
    Area(Vec<(f64, f64)>, Ink, f64),
    Rect(f64, f64, f64, f64, Ink, f64),
    Dot(f64, f64, f64, Ink, f64, bool),
    Text(f64, f64, String, f64, Ink, Anchor, bool),
}

/// A drawing in the making.
pub(crate) struct Canvas {
    width: f64,
    height: f64,
    shapes: Vec<Shape>,
}

impl Canvas {
    /// An empty drawing of this size.
    pub(crate) fn new(width: f64, height: f64) -> Self {
        Self {
            width,
            height,
            shapes: Vec::new(),
        }
    }

    /// A line through points.
    pub(crate) fn line(&mut self, points: &[(f64, f64)], ink: Ink, width: f64) {
        self.shapes
            .push(Shape::Line(points.to_vec(), ink, width, 1.0));
    }

    /// A dashed line between two points.
    pub(crate) fn dashes(&mut self, from: (f64, f64), to: (f64, f64), ink: Ink, width: f64) {
        let length = (to.0 - from.0).hypot(to.1 - from.1);
        let (dash, gap) = (6.0, 4.0);
        let at = |d: f64| {
            let part = (d / length).min(1.0);
            (
                from.0 + part * (to.0 - from.0),
                from.1 + part * (to.1 - from.1),
            )
        };
        let mut done = 0.0;
        while done < length {
            self.line(&[at(done), at(done + dash)], ink, width);
            done += dash + gap;
        }
    }

    /// A filled shape.
    pub(crate) fn area(&mut self, points: &[(f64, f64)], ink: Ink, opacity: f64) {
        self.shapes.push(Shape::Area(points.to_vec(), ink, opacity));
    }

    /// A filled rectangle by its upper left corner and size.
    pub(crate) fn rect(&mut self, x: f64, y: f64, width: f64, height: f64, ink: Ink, opacity: f64) {
        self.shapes
            .push(Shape::Rect(x, y, width, height, ink, opacity));
    }

    /// A filled dot.
    pub(crate) fn dot(&mut self, x: f64, y: f64, radius: f64, ink: Ink, opacity: f64) {
        self.shapes
            .push(Shape::Dot(x, y, radius, ink, opacity, true));
    }

    /// A ring.
    pub(crate) fn ring(&mut self, x: f64, y: f64, radius: f64, ink: Ink) {
        self.shapes.push(Shape::Dot(x, y, radius, ink, 1.0, false));
    }

    /// A text whose middle height is at `y`, `size` pixels high.
    pub(crate) fn text(&mut self, x: f64, y: f64, text: &str, size: f64, ink: Ink, anchor: Anchor) {
        self.shapes
            .push(Shape::Text(x, y, text.to_owned(), size, ink, anchor, false));
    }

    /// The same, bold.
    pub(crate) fn bold(&mut self, x: f64, y: f64, text: &str, size: f64, ink: Ink, anchor: Anchor) {
        self.shapes
            .push(Shape::Text(x, y, text.to_owned(), size, ink, anchor, true));
    }

    /// The view box and the drawing's elements, without the outer `svg` element.
    pub(crate) fn finish(self) -> Result<(String, String), String> {
        let size = (
            (self.width * FINE).round() as u32,
            (self.height * FINE).round() as u32,
        );
        let mut svg = String::new();
        {
            let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
            for shape in &self.shapes {
                draw(&area, shape)?;
            }
            area.present().map_err(words)?;
        }
        let body = svg
            .split_once(">\n")
            .and_then(|(_, rest)| rest.rsplit_once("</svg>"))
            .map(|(body, _)| body)
            .ok_or("the plotter wrote no svg element")?;
        Ok((format!("0 0 {} {}", size.0, size.1), themed(body)))
    }
}

fn units(px: f64) -> i32 {
    (px * FINE).round() as i32
}

fn unit_points(points: &[(f64, f64)]) -> Vec<(i32, i32)> {
    points.iter().map(|(x, y)| (units(*x), units(*y))).collect()
}

fn style(ink: Ink, opacity: f64, width: f64, filled: bool) -> ShapeStyle {
    ShapeStyle {
        color: stand_in(ink, opacity),
        filled,
        stroke_width: units(width).max(1) as u32,
    }
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn draw(area: &Area<'_>, shape: &Shape) -> Result<(), String> {
    match shape {
        Shape::Line(points, ink, width, opacity) => put(
            area,
            &PathElement::new(unit_points(points), style(*ink, *opacity, *width, false)),
        ),
        Shape::Area(points, ink, opacity) => put(
            area,
            &Polygon::new(unit_points(points), style(*ink, *opacity, 1.0, true)),
        ),
        Shape::Rect(x, y, width, height, ink, opacity) => put(
            area,
            &Rectangle::new(
                [
                    (units(*x), units(*y)),
                    (units(x + width), units(y + height)),
                ],
                style(*ink, *opacity, 1.0, true),
            ),
        ),
        Shape::Dot(x, y, radius, ink, opacity, filled) => put(
            area,
            &Circle::new(
                (units(*x), units(*y)),
                units(*radius),
                style(*ink, *opacity, 1.5, *filled),
            ),
        ),
        Shape::Text(x, y, text, size, ink, anchor, bold) => {
            let weight = if *bold {
                FontStyle::Bold
            } else {
                FontStyle::Normal
            };
            let font = ("sans-serif", size * FINE * FONT_DIVISOR)
                .into_font()
                .style(weight)
                .transform(FontTransform::None);
            let h_pos = match anchor {
                Anchor::Start => HPos::Left,
                Anchor::Middle => HPos::Center,
                Anchor::End => HPos::Right,
            };
            let colour = stand_in(*ink, 1.0);
            let style = TextStyle::from(font)
                .color(&colour)
                .pos(Pos::new(h_pos, VPos::Center));
            put(
                area,
                &Text::new(text.clone(), (units(*x), units(*y)), style),
            )
        }
    }
}

fn put<'a, E>(area: &Area<'a>, element: &E) -> Result<(), String>
where
    for<'e> &'e E: plotters::element::PointCollection<'e, (i32, i32)>,
    E: Drawable<SVGBackend<'a>>,
{
    area.draw(element).map_err(words)
}

fn words<E: std::error::Error + Send + Sync>(error: DrawingAreaErrorKind<E>) -> String {
    error.to_string()
}

/// The number that a colour is drawn as: 0x0102 and the place in the palette.
fn stand_in(ink: Ink, opacity: f64) -> RGBAColor {
    let place = PALETTE.iter().position(|(i, ..)| *i == ink).unwrap_or(0);
    RGBColor(0x01, 0x02, place as u8).mix(opacity)
}

/// Puts the style sheet's variables in for the stand-ins. Text cannot be mistaken for one: plotters escapes
/// quotation marks in it.
fn themed(body: &str) -> String {
    let mut themed = body.to_owned();
    for (place, (_, name, ..)) in PALETTE.iter().enumerate() {
        for property in ["fill", "stroke"] {
            themed = themed.replace(
                &format!(" {property}=\"#0102{place:02X}\""),
                &format!(" style=\"{property}:var(--{name})\""),
            );
        }
    }
    // Said by default, and most of the bytes of a drawing with many points.
    themed
        .replace(" opacity=\"1\"", "")
        .replace(" stroke=\"none\"", "")
        .replace(" font-family=\"sans-serif\"", "")
}

#[cfg(test)]
mod tests {
    use super::{Anchor, Canvas};
    use crate::page::theme::{Ink, PALETTE};

    #[test]
    fn every_colour_becomes_a_variable_and_none_stays_a_number() {
        let mut canvas = Canvas::new(10.0, 10.0);
        for (ink, ..) in PALETTE {
            canvas.dot(1.0, 1.0, 1.0, ink, 0.5);
            canvas.ring(1.0, 1.0, 1.0, ink);
            canvas.line(&[(0.0, 0.0), (1.0, 1.0)], ink, 1.0);
            canvas.area(&[(0.0, 0.0), (1.0, 1.0), (0.0, 1.0)], ink, 1.0);
            canvas.rect(0.0, 0.0, 1.0, 1.0, ink, 1.0);
            canvas.text(0.0, 0.0, "x", 10.0, ink, Anchor::Start);
        }
        let (view, body) = canvas.finish().unwrap();
        assert_eq!(view, "0 0 40 40");
        assert!(!body.contains('#'), "{body}");
        for (_, name, ..) in PALETTE {
            assert!(body.contains(&format!("var(--{name})")));
        }
    }

    #[test]
    fn text_is_escaped() {
        let mut canvas = Canvas::new(10.0, 10.0);
        let hostile = "<script>alert(1)</script>\" fill=\"#010200\"";
        canvas.text(0.0, 0.0, hostile, 10.0, Ink::Text, Anchor::Middle);
        let (_, body) = canvas.finish().unwrap();
        assert!(!body.contains("<script"), "{body}");
        assert!(body.contains("&lt;script&gt;"), "{body}");
        assert!(body.contains("fill=&quot;#010200&quot;"), "{body}");
    }
}
