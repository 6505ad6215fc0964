//! What was measured, beside what was aimed at.

use std::time::Duration;

/// The figures of a run.
#[derive(Debug, Default)]
pub(crate) struct Figures(Vec<Figure>);

#[derive(Debug)]
struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
    goal: Option<f64>,
}

impl Figures {
    /// A figure with the most that it should be.
    pub(crate) fn add(
        &mut self,
        name: impl Into<String>,
        value: f64,
        unit: &'static str,
        goal: impl Into<Option<f64>>,
    ) {
        let figure = Figure { name: name.into(), value, unit, goal: goal.into() };
        eprintln!("{}", figure.line());
        self.0.push(figure);
    }

    /// A time in milliseconds.
    pub(crate) fn time(&mut self, name: impl Into<String>, value: Duration, goal: impl Into<Option<f64>>) {
        self.add(name, value.as_secs_f64() * 1000.0, "ms", goal);
    }

    pub(crate) fn all_met(&self) -> bool {
        self.0.iter().all(Figure::is_met)
    }

    pub(crate) fn print(&self) {
        println!("\n| figure | measured | unit | goal |\n| --- | --: | --- | --- |");
        for figure in &self.0 {
            let goal = figure.goal.map_or_else(String::new, |goal| {
                format!("<= {goal} {}", if figure.is_met() { "met" } else { "missed" })
            });
            println!("| {} | {:.2} | {} | {goal} |", figure.name, figure.value, figure.unit);
        }
    }
}

impl Figure {
    fn is_met(&self) -> bool {
        self.goal.is_none_or(|goal| self.value <= goal)
    }

    fn line(&self) -> String {
        let Self { name, value, unit, .. } = self;
        format!("  {name}: {value:.2} {unit}{}", if self.is_met() { "" } else { "  (more than the goal)" })
    }
}

/// The value below which this share of them lies.
pub(crate) fn quantile(values: &mut [Duration], share: f64) -> Duration {
    values.sort_unstable();
    let last = values.len().checked_sub(1).expect("something was measured");
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index"
    )]
    let at = (last as f64 * share).ceil() as usize;
    values[at.min(last)]
}
