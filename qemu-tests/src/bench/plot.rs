// SPDX-License-Identifier: GPL-2.0-only
//! The ratios as a picture: a bar for every row, and a line where both are equal.

use anyhow::{anyhow, Result};
use plotters::prelude::*;

use super::{
    report::{Report, Row},
    system::{Lower, System},
};

const WIDTH: u32 = 1000;
const BAR_HEIGHT: u32 = 34;
const MARGIN: u32 = 110;
const LABELS: u32 = 430;
const AGAINST_DRBD: RGBColor = RGBColor(40, 110, 180);
const AGAINST_RAW: RGBColor = RGBColor(190, 190, 190);

/// Draws the ratios of all rates as SVG.
///
/// # Errors
/// If a bar cannot be drawn.
pub fn svg(report: &Report) -> Result<String> {
    let rows: Vec<&Row> = report.rows(true).collect();
    let mut text = String::new();
    let height = MARGIN + BAR_HEIGHT * u32::try_from(rows.len())?;
    let area = SVGBackend::with_string(&mut text, (WIDTH, height)).into_drawing_area();
    draw(&area, &rows).map_err(|error| anyhow!("drawing: {error}"))?;
    drop(area);
    Ok(text)
}

type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

fn draw(area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>, rows: &[&Row]) -> Drawn {
    area.fill(&WHITE)?;
    let against = |row: &Row, other| row.ratio(System::Weft, other).unwrap_or(0.0);
    let ratios = rows
        .iter()
        .flat_map(|row| [against(row, System::Drbd), against(row, System::Raw)]);
    let widest = ratios.fold(1.0, f64::max) * 1.1;
    let mut chart = ChartBuilder::on(area)
        .caption(
            "Weft compared with DRBD (blue) and with the bare disk (grey); 1 is equal",
            ("sans-serif", 16),
        )
        .margin(15)
        .x_label_area_size(30)
        .y_label_area_size(LABELS)
        .build_cartesian_2d(0.0..widest, 0.0..rows.len() as f64)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .y_labels(0)
        .x_desc("times as fast")
        .draw()?;
    for (index, row) in rows.iter().enumerate() {
        // The first row is on top.
        let bottom = (rows.len() - index - 1) as f64;
        let bar = |ratio, low, high, colour: RGBColor| {
            Rectangle::new(
                [(0.0, bottom + low), (ratio, bottom + high)],
                colour.filled(),
            )
        };
        let (drbd, raw) = (against(row, System::Drbd), against(row, System::Raw));
        chart.draw_series([
            bar(drbd, 0.45, 0.9, AGAINST_DRBD),
            bar(raw, 0.15, 0.45, AGAINST_RAW),
        ])?;
        let (_, y) = chart.backend_coord(&(0.0, bottom + 0.75));
        let label = format!("{} ({})", row.workload.title, lower_name(row.lower));
        area.draw(&Text::new(label, (10, y), ("sans-serif", 13)))?;
        let (x, _) = chart.backend_coord(&(drbd, bottom));
        if drbd > 0.0 {
            area.draw(&Text::new(
                format!("{drbd:.2}"),
                (x + 4, y),
                ("sans-serif", 13),
            ))?;
        }
    }
    let equal = [(1.0, 0.0), (1.0, rows.len() as f64)];
    chart.draw_series([PathElement::new(equal.to_vec(), RED)])?;
    area.present()?;
    Ok(())
}

fn lower_name(lower: Lower) -> &'static str {
    match lower {
        Lower::Ram => "RAM disk",
        Lower::Virtio => "virtio disk",
    }
}
