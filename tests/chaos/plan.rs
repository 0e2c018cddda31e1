//! One request, drawn from a seed: how it is sent, what its backends do, how its client behaves.

use std::sync::Arc;
use std::time::Duration;

use super::faults::{BODY_IDLE, CONNECT, FIRST_TOKEN, Fault, TOTAL, Told, WRITE_IDLE};

/// A small generator of random numbers (`SplitMix64`), so that a seed means the same everywhere.
#[derive(Debug, Clone)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % most as u64).expect("it is smaller")
    }

    pub(crate) fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    fn percent(&mut self, share: usize) -> bool {
        self.below(100) < share
    }
}

/// How the client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Speaks {
    H1,
    H2,
    H1Tls,
    H2Tls,
}

/// How the client behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behaves {
    /// It reads what it is sent.
    Well,
    /// Half of its body comes after a pause, or never (D2).
    SendsLate { too_late: bool },
    /// It takes a little at a time (D3).
    ReadsSlowly,
    /// It takes nothing after the head (D3).
    StopsReading,
    /// It leaves (D4).
    Leaves(Stage, Leave),
}

/// When it leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    MidHead,
    MidBody,
    /// Once its request is sent whole, and so much time has passed.
    After(Duration),
    /// With the first bytes of the answer.
    MidStream,
    /// After the mark that ends the answer.
    AfterDone,
}

/// How it leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leave {
    Fin,
    Rst,
    HalfClose,
}

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) number: usize,
    pub(crate) fault: Arc<Fault>,
    /// Whether a second backend would do the same.
    pub(crate) everywhere: bool,
    pub(crate) speaks: Speaks,
    pub(crate) behaves: Behaves,
    /// Whether it goes to backends that cannot be connected to.
    pub(crate) unreachable: bool,
    /// Whether it is told in comments that somebody is there.
    pub(crate) beats: bool,
}

impl Plan {
    pub(crate) fn draw(number: usize, dice: &mut Dice, faults: &[Arc<Fault>]) -> Self {
        let named = |name: &str| Arc::clone(faults.iter().find(|fault| fault.name == name).expect("a fault"));
        let fault = Arc::clone(&faults[dice.below(faults.len())]);
        let (everywhere, speaks) =
            (dice.percent(50), dice.of(&[Speaks::H1, Speaks::H1, Speaks::H2, Speaks::H1Tls, Speaks::H2Tls]));
        let plan = Self { number, fault, everywhere, speaks, behaves: Behaves::Well, unreachable: false, beats: false };
        match dice.below(20) {
            0 => Self { behaves: Behaves::SendsLate { too_late: dice.percent(50) }, ..plan },
            1 => Self { behaves: Behaves::ReadsSlowly, ..plan },
            2 => Self { behaves: Behaves::StopsReading, fault: named("large"), ..plan },
            3..=7 => plan.leaves(dice, &named),
            8 => Self { unreachable: true, fault: named("ok"), ..plan },
            9 => Self { beats: true, ..plan },
            _ => plan,
        }
    }

    fn leaves(self, dice: &mut Dice, named: &dyn Fn(&str) -> Arc<Fault>) -> Self {
        let after = Stage::After(Duration::from_millis(dice.below(60) as u64));
        let mut stage = dice.of(&[Stage::MidHead, Stage::MidBody, after, after, Stage::MidStream, Stage::AfterDone]);
        if self.is_h2() && stage == Stage::MidHead {
            stage = Stage::MidBody;
        }
        let fault = match stage {
            Stage::MidStream => named("u14-stall"),
            Stage::AfterDone => named("ok"),
            _ => Arc::clone(&self.fault),
        };
        let leave = dice.of(&[Leave::Fin, Leave::Rst, Leave::HalfClose]);
        Self { fault, behaves: Behaves::Leaves(stage, leave), ..self }
    }

    /// Its name, which tells the backend what to do.
    pub(crate) fn id(&self) -> String {
        let scope = if self.everywhere { "everywhere" } else { "once" };
        format!("{}.{}.{scope}", self.number, self.fault.name)
    }

    pub(crate) fn is_h2(&self) -> bool {
        matches!(self.speaks, Speaks::H2 | Speaks::H2Tls)
    }

    /// Whether its client reads all that it is sent.
    pub(crate) fn stays(&self) -> bool {
        !matches!(self.behaves, Behaves::Leaves(_, _) | Behaves::StopsReading | Behaves::SendsLate { too_late: true })
    }

    pub(crate) fn model(&self) -> &'static str {
        match (self.unreachable, self.beats) {
            (true, _) => "far",
            (_, true) => "beat",
            _ => "m",
        }
    }

    /// How many records it may leave: of a client that leaves at once, headway may never have had a whole head.
    pub(crate) fn records(&self) -> std::ops::RangeInclusive<usize> {
        match self.behaves {
            Behaves::Leaves(Stage::MidHead, _) => 0..=0,
            Behaves::Leaves(Stage::MidBody | Stage::After(_), _) => 0..=1,
            _ => 1..=1,
        }
    }

    /// When it must have ended, by the timers that it can run into.
    pub(crate) fn due(&self) -> Duration {
        let tries = match &self.fault.told {
            Told::Error(_) => 2,
            Told::Whole(_) | Told::Broken => 1,
        };
        let served = if self.unreachable { CONNECT * 2 } else { self.fault.takes * tries };
        let client = match self.behaves {
            Behaves::Well => Duration::ZERO,
            Behaves::SendsLate { .. } => BODY_IDLE,
            Behaves::ReadsSlowly => WRITE_IDLE,
            Behaves::StopsReading => WRITE_IDLE * 2,
            Behaves::Leaves(_, _) => FIRST_TOKEN,
        };
        served.min(TOTAL) + client
    }
}
