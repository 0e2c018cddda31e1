//! What the simulations showed, as a table, JSON, CSV or a page.

mod csv;
pub mod html;
mod json;
mod table;

pub use csv::csv;
pub use html::html;
pub use json::json;
pub use table::table;

use super::contender::{Contender, Role};
use super::scene::Scene;
use super::score::Score;
use super::summary::{Paired, Summary};

/// Everything that was simulated.
#[derive(Debug, Clone)]
pub struct Report {
    /// Where the traffic came from, and the seed.
    pub about: Vec<String>,
    /// One for each scenario or evaluation.
    pub groups: Vec<Group>,
}

/// One scenario or evaluation: every contender on the same configurations.
#[derive(Debug, Clone)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// What it shows.
    pub about: String,
    /// The configurations.
    pub configurations: Vec<Configuration>,
    /// Who competed, with one score for each configuration.
    pub columns: Vec<Column>,
}

/// What a reader needs to know of a scene.
#[derive(Debug, Clone, PartialEq)]
pub struct Configuration {
    /// Its name.
    pub name: String,
    /// Requests per second that came.
    pub offered: f64,
    /// Names of the backends.
    pub backends: Vec<String>,
}

/// One contender's scores.
#[derive(Debug, Clone)]
pub struct Column {
    /// Who.
    pub contender: Contender,
    /// One for each configuration.
    pub scores: Vec<Score>,
}

/// A comparison of two contenders of a group.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison<'a> {
    /// Whose gain it is.
    pub one: &'a str,
    /// Over whom.
    pub other: &'a str,
    /// By how much.
    pub paired: Paired,
}

impl Configuration {
    /// Of a scene.
    #[must_use]
    pub fn of(scene: &Scene) -> Self {
        Self {
            name: scene.name.clone(),
            offered: scene.workload.offered(scene.duration),
            backends: scene.backends.iter().map(|machine| machine.name.to_string()).collect(),
        }
    }
}

impl Column {
    /// All configurations in one figure each.
    #[must_use]
    pub fn summary(&self) -> Summary {
        Summary::of(&self.scores())
    }

    fn scores(&self) -> Vec<&Score> {
        self.scores.iter().collect()
    }

    fn against<'a>(&'a self, other: &'a Self) -> Option<Comparison<'a>> {
        let paired = Paired::of(&self.scores(), &other.scores())?;
        Some(Comparison { one: &self.contender.name, other: &other.contender.name, paired })
    }
}

impl Group {
    /// Ours against every rival, then every ablation against what it was taken from.
    pub fn comparisons(&self) -> impl Iterator<Item = Comparison<'_>> {
        let with = |role: Role| self.columns.iter().filter(move |column| column.contender.role() == role);
        let rivals = with(Role::Ours).flat_map(move |ours| with(Role::Rival).filter_map(|rival| ours.against(rival)));
        let bases = move |ablation: &Column| {
            let base = with(Role::Ours).find(|ours| ablation.contender.is_ablation_of(&ours.contender));
            base.map(|base| base.contender.name.clone())
        };
        let ablations = with(Role::Ablation).filter_map(move |ablation| {
            let base = bases(ablation)?;
            ablation.against(self.columns.iter().find(|column| column.contender.name == base)?)
        });
        rivals.chain(ablations)
    }
}
