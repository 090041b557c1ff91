//! The tables and the picture: what each kernel takes, and the least time of its launches.

use std::fmt::Write;

use nvcc::Arch;

use crate::check::Kernel;
use crate::cost::STEPS;
use crate::gpu::{A100, GPUS, Gpu, H100};
use crate::plan::{Entry, Plan};

/// Said above every figure that could be taken for a speed.
pub const MODEL: &str = "A model, not a measurement: each byte once at the published bandwidth, or each operation at the \
                         published rate, whichever takes longer. Nothing here ran on a GPU.";

/// The instructions of the table.
const MIX: [&str; 8] = ["HMMA", "IMMA", "LDSM", "LDGSTS", "LDG.128", "STG.128", "FFMA", "BAR"];

/// Rows under a head, as a Markdown table whose columns line up.
fn table(head: &[String], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| &row[column]).chain([&head[column]]);
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &[String]| {
        let mut line = String::from("|");
        for (at, (cell, width)) in cells.iter().zip(&widths).enumerate() {
            let _ =
                if at == 0 { write!(line, " {cell:<width$} |") } else { write!(line, " {cell:>width$} |") };
        }
        line + "\n"
    };
    let rule = widths.iter().enumerate().map(|(at, width)| {
        if at == 0 { format!("{}-|", "-".repeat(width + 1)) } else { format!("{}:|", "-".repeat(width + 1)) }
    });
    let rule: String = rule.collect();
    rows.iter().fold(line(head) + "|" + &rule + "\n", |text, row| text + &line(row))
}

/// Registers, shared memory, occupancy and instructions of every kernel. A number for both GPUs stands as A100/H100.
pub fn resources(plan: &Plan, kernels: &[Kernel]) -> String {
    let mut head: Vec<String> = ["kernel", "threads", "registers", "budget", "shared", "blocks", "occupancy"]
        .map(str::to_owned)
        .into();
    head.extend(MIX.map(str::to_owned));
    head.push("all".into());
    let rows: Vec<Vec<String>> = kernels
        .iter()
        .filter_map(|kernel| Some((kernel, plan.entry(&kernel.name)?)))
        .map(|(kernel, entry)| resource_row(kernel, entry))
        .collect();
    table(&head, &rows)
}

fn resource_row(kernel: &Kernel, entry: &Entry) -> Vec<String> {
    let both = |value: &dyn Fn(&Gpu) -> String| {
        let [a100, h100] = GPUS.map(value);
        if a100 == h100 { a100 } else { format!("{a100}/{h100}") }
    };
    let block = |gpu: &Gpu| kernel.footprint(gpu.arch, entry);
    let mut row = vec![
        kernel.name.clone(),
        entry.threads.to_string(),
        both(&|gpu| block(gpu).registers.to_string()),
        both(&|gpu| entry.registers.of(gpu.arch).to_string()),
        both(&|gpu| block(gpu).shared_bytes.to_string()),
        both(&|gpu| gpu.blocks(block(gpu)).to_string()),
        both(&|gpu| format!("{:.0}%", 100.0 * gpu.occupancy(block(gpu)))),
    ];
    let Some(built) = kernel.built.get(&Arch::Sm80) else { return row };
    row.extend(MIX.map(|kind| built.instructions.count(kind).to_string()));
    row.push(built.instructions.total().to_string());
    row
}

/// One line of the second table: a family at a step.
struct Launch {
    family: String,
    step: &'static str,
    bytes: f64,
    operations: f64,
    /// Least times on an A100 and on an H100, microseconds.
    us: [f64; 2],
}

fn launches(plan: &Plan) -> Vec<Launch> {
    let mut launches = Vec::new();
    for entry in &plan.kernel {
        let Some(cost) = &entry.cost else { continue };
        for step in STEPS {
            let work = cost.work(step);
            let floor = |gpu: &Gpu| 1e6 * gpu.floor_seconds(work.bytes, work.operations, cost.arithmetic());
            launches.push(Launch {
                family: entry.names.join(" "),
                step: step.name,
                bytes: work.bytes,
                operations: work.operations,
                us: GPUS.map(floor),
            });
        }
    }
    launches
}

/// `1.23 M` and the like.
fn short(value: f64) -> String {
    let (scale, unit) = match value {
        v if v >= 1e12 => (1e12, " T"),
        v if v >= 1e9 => (1e9, " G"),
        v if v >= 1e6 => (1e6, " M"),
        v if v >= 1e3 => (1e3, " k"),
        _ => (1.0, ""),
    };
    format!("{:.3}{unit}", value / scale)
}

/// Bytes, operations and least times of one launch of each family at each step.
pub fn roofline(plan: &Plan) -> String {
    let head = ["family", "step", "bytes", "operations", "A100 us", "H100 us"].map(str::to_owned);
    let rows: Vec<Vec<String>> = launches(plan)
        .into_iter()
        .map(|launch| {
            let us = launch.us.map(|us| format!("{us:.2}"));
            let [a100, h100] = us;
            vec![launch.family, launch.step.into(), short(launch.bytes), short(launch.operations), a100, h100]
        })
        .collect();
    format!("{MODEL}\n\n{}", table(&head, &rows))
}

const ROW: f64 = 16.0;
const LEFT: f64 = 430.0;
const WIDTH: f64 = 960.0;

/// The least times as bars on a logarithmic scale: A100 dark, H100 light.
pub fn picture(plan: &Plan) -> String {
    let launches = launches(plan);
    let top = launches.iter().map(|launch| launch.us[0]).fold(1.0, f64::max);
    // From 10 ns on; the bar of the longest launch leaves room for its figure.
    let length = |us: f64| ((us / 0.01).max(1.0).log10() / (top / 0.01).log10()) * (WIDTH - LEFT - 70.0);
    let height = ROW * (launches.len() as f64 + 4.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"8\" y=\"18\" font-size=\"13\">Least time of a launch in microseconds, logarithmic: {} dark, {} \
         light</text>\n<text x=\"8\" y=\"34\">{MODEL}</text>\n",
        A100.name, H100.name
    );
    for (at, launch) in launches.iter().enumerate() {
        let y = ROW * (at as f64 + 3.0);
        let [a100, h100] = launch.us;
        let label = escape(&format!("{}, {}", launch.family, launch.step));
        let _ =
            writeln!(svg, "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{label}</text>", LEFT - 6.0, y + 11.0);
        for (us, color, offset) in [(a100, "#1f4e79", 1.0), (h100, "#9dc3e6", 7.0)] {
            let (y, width) = (y + offset, length(us));
            let _ = writeln!(
                svg,
                "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"6\" fill=\"{color}\"/>"
            );
        }
        let x = LEFT + length(a100) + 4.0;
        let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{}\">{a100:.2}</text>", y + 11.0);
    }
    svg + "</svg>\n"
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_numbers_keep_three_places() {
        let text = table(&["a".into(), "bb".into()], &[vec!["long".into(), "1".into()]]);
        assert_eq!(text, "| a    | bb |\n|------|---:|\n| long |  1 |\n");
        assert_eq!([short(999.0), short(1234.0), short(2.5e9)], ["999.000", "1.234 k", "2.500 G"]);
    }

    #[test]
    fn every_figure_of_time_says_that_it_is_a_model() {
        let plan: Plan = toml::from_str(
            "[[kernel]]\nnames = [\"norm_{f32,bf16}\"]\nthreads = 256\nregisters = 32\nblocks = 8\n\
             cost = { kind = \"rows\", read = 2039e9, write = 0 }",
        )
        .unwrap();
        let text = roofline(&plan);
        assert!(text.contains(MODEL) && text.contains("1000000.00"), "{text}");
        let svg = picture(&plan);
        assert!(svg.contains(MODEL) && svg.matches("<rect").count() == 1 + 2 * STEPS.len(), "{svg}");
    }
}
