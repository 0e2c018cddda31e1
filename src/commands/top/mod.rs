//! `headway top`: routes, backends and the last decisions of a running headway, live in a terminal.
//!
//! It asks the admin listener as anyone could, on a thread of its own, so that keys are obeyed while an answer is late;
//! a proxy that restarts is found again. Without a terminal it prints what it would show, once.

mod screen;
mod snapshot;
mod table;
mod view;

#[cfg(test)]
mod tests;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use clap::Args;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use self::screen::{Asked, Screen};
use self::snapshot::Snapshot;
use super::EXIT_INTERRUPTED;
use super::ask::{Admin, AdminArgs};
use crate::clock::{Clock, SystemClock};
use crate::units::parse_duration;

/// How long the screen waits for a key before it looks for news.
const PATIENCE: Duration = Duration::from_millis(50);
/// How wide lines may be where nobody has to look at them.
const ENDLESS: usize = 10_000;

/// Arguments of `headway top`.
#[derive(Debug, Clone, Args)]
pub struct TopArgs {
    /// Whom to ask.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// How often to ask.
    #[arg(long, value_name = "DUR", default_value = "1s", value_parser = often)]
    pub interval: Duration,
    /// Print what there is now, and end; so it does where standard output is no terminal.
    #[arg(long)]
    pub once: bool,
}

fn often(text: &str) -> Result<Duration, String> {
    let interval = parse_duration(text).map_err(|error| error.to_string())?;
    if interval < Duration::from_millis(100) { Err("at least 100ms".to_owned()) } else { Ok(interval) }
}

/// Shows it until the user has seen enough.
///
/// # Errors
/// When the URL makes no sense, or what is asked once has no answer.
pub fn run(args: &TopArgs) -> anyhow::Result<ExitCode> {
    let admin = Admin::of(&args.admin)?;
    if args.once || !io::stdout().is_terminal() {
        return super::print(|out| once(&admin, out));
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let mut screen = Screen::new(admin.address(), colours());
    let (sender, news) = channel();
    let pace = args.interval;
    std::thread::Builder::new().name("asking".to_owned()).spawn(move || asking(&admin, pace, &sender))?;
    let mut terminal = ratatui::try_init()?;
    let ended = watch(&mut terminal, &mut screen, &news, &*clock);
    ratatui::try_restore()?;
    ended
}

/// <https://no-color.org>: any value but an empty one.
fn colours() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn once(admin: &Admin, out: &mut dyn Write) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let snapshot = runtime.block_on(Snapshot::ask(admin))?;
    let mut lines = vec![view::summary(&snapshot, admin.address())];
    lines.extend(view::body(&snapshot, view::Sort::default(), ENDLESS));
    for line in lines {
        let text: String = line.iter().map(|cell| cell.text.as_str()).collect();
        writeln!(out, "{}", text.trim_end())?;
    }
    Ok(0)
}

/// What comes from the thread that asks.
enum News {
    Heard(Box<Snapshot>),
    Trouble(String),
    /// A signal asked to end.
    End(u8),
}

/// Asks again and again, and listens to signals, until nobody wants to know.
fn asking(admin: &Admin, pace: Duration, sender: &Sender<News>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(ask(admin, pace, sender)));
    if let Err(error) = ended {
        let _ = sender.send(News::Trouble(format!("{error:#}")));
    }
}

async fn ask(admin: &Admin, pace: Duration, sender: &Sender<News>) -> anyhow::Result<()> {
    let mut end = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut tick = interval(pace);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let asked = async {
            tick.tick().await;
            match Snapshot::ask(admin).await {
                Ok(snapshot) => News::Heard(Box::new(snapshot)),
                Err(error) => News::Trouble(format!("{error:#}")),
            }
        };
        let news = tokio::select! {
            news = asked => news,
            _ = end.recv() => News::End(0),
            _ = hang_up.recv() => News::End(0),
            _ = interrupt.recv() => News::End(EXIT_INTERRUPTED),
        };
        let last = matches!(news, News::End(_));
        if sender.send(news).is_err() || last {
            return Ok(());
        }
    }
}

/// Draws what comes and obeys keys.
fn watch(
    terminal: &mut DefaultTerminal,
    screen: &mut Screen,
    news: &Receiver<News>,
    clock: &dyn Clock,
) -> anyhow::Result<ExitCode> {
    let mut heard = clock.now();
    let mut draw = true;
    loop {
        while let Ok(one) = news.try_recv() {
            if let News::End(code) = one {
                return Ok(ExitCode::from(code));
            }
            take(one, screen, &mut heard, clock.now());
            draw = true;
        }
        if std::mem::take(&mut draw) {
            terminal.draw(|frame| screen.draw(frame))?;
        }
        if event::poll(PATIENCE)? {
            match screen.obey(&event::read()?) {
                Asked::Quit => return Ok(ExitCode::SUCCESS),
                Asked::Draw => draw = true,
                Asked::Nothing => {}
            }
        }
    }
}

fn take(news: News, screen: &mut Screen, heard: &mut Instant, now: Instant) {
    match news {
        News::Heard(snapshot) => {
            *heard = now;
            screen.hear(*snapshot);
        }
        News::Trouble(why) => screen.trouble = Some((why, now.saturating_duration_since(*heard))),
        News::End(_) => {}
    }
}
