//! An NRI plugin that lets pods use any user id in a rootless Kubernetes node with few subordinate ids.

mod cmd;
#[cfg(any(fuzzing, test))]
pub mod fuzz;
mod journal;
mod map;
mod nri;
mod pod;
mod supervise;
mod sys;

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::process::ExitCode;

use lexopt::Parser;

use cmd::{check, explain, inspect, plan, show};
use map::printable;
use nri::options::{self, Asked};
use supervise::options as becoming;

/// What this program can be, besides the plugin.
struct Mode {
    name: &'static str,
    /// One line for `--help`.
    summary: &'static str,
    help: &'static str,
    /// Exit statuses for failure and for wrong options.
    statuses: [u8; 2],
    run: fn(Parser) -> Result<Outcome, Failure>,
}

enum Outcome {
    Help,
    /// The exit status, and what goes to stdout.
    Said(u8, String),
}

enum Failure {
    WrongOptions(String),
    Failed(String),
}

const USUAL: [u8; 2] = [1, 2];

const MODES: [Mode; 7] = [
    Mode {
        name: "node",
        summary: "all of it, for a whole node: its entrypoint runs this",
        help: becoming::NODE_HELP,
        statuses: USUAL,
        run: |parser| run(parser, becoming::node, supervise::run),
    },
    Mode {
        name: "supervise",
        summary: "folds the chown and set-id calls of one command",
        help: becoming::SUPERVISE_HELP,
        statuses: USUAL,
        run: |parser| run(parser, becoming::supervise, supervise::run),
    },
    Mode {
        name: "plan",
        summary: "the id map that a node should get, and the options for Podman",
        help: plan::HELP,
        statuses: USUAL,
        run: |parser| run(parser, plan::parse, plan::run),
    },
    Mode {
        name: "check",
        summary: "whether pods can use any id on this node, with remedies",
        help: check::HELP,
        // 1 and 2 are for what it finds.
        statuses: [3, 3],
        run: |parser| run(parser, check::parse, check::run),
    },
    Mode {
        name: "show",
        summary: "the node's map, or a container's, or a chain of maps, as a picture",
        help: show::HELP,
        statuses: USUAL,
        run: |parser| run(parser, show::parse, show::run),
    },
    Mode {
        name: "explain",
        summary: "what becomes of an id on this node",
        help: explain::HELP,
        statuses: USUAL,
        run: |parser| run(parser, explain::parse, explain::run),
    },
    Mode {
        name: "inspect",
        summary: "a running container's user namespace as OCI JSON",
        help: inspect::HELP,
        statuses: USUAL,
        run: |parser| run(parser, inspect::parse, inspect::run),
    },
];

fn run<O, E: ToString>(
    parser: Parser,
    parse: fn(Parser) -> Result<Option<O>, E>,
    work: fn(O) -> Result<(u8, String), String>,
) -> Result<Outcome, Failure> {
    match parse(parser).map_err(|e| Failure::WrongOptions(e.to_string()))? {
        None => Ok(Outcome::Help),
        Some(options) => work(options).map(|(status, text)| Outcome::Said(status, text)).map_err(Failure::Failed),
    }
}

/// The program: reads its arguments and becomes what they say.
pub fn main() -> ExitCode {
    let mut words = env::args_os();
    let argv0 = words.next().unwrap_or_default();
    let words: Vec<OsString> = words.collect();
    let mode = words.first().and_then(|word| MODES.iter().find(|mode| *word == *mode.name));
    let (result, [failed, wrong]) = match mode {
        Some(mode) => ((mode.run)(Parser::from_args(&words[1..])), mode.statuses),
        None => (plugin(&argv0, Parser::from_args(&words)), USUAL),
    };
    let said = match result {
        Ok(Outcome::Help) => print(mode.map_or("", |mode| mode.help)).map(|()| 0).map_err(|e| (e, failed)),
        Ok(Outcome::Said(status, text)) => print(&text).map(|()| status).map_err(|e| (e, failed)),
        Err(Failure::Failed(message)) => Err((message, failed)),
        Err(Failure::WrongOptions(message)) => Err((format!("{message}; see --help"), wrong)),
    };
    ExitCode::from(said.unwrap_or_else(|(message, status)| {
        // Names of files and users may hold anything. With stderr gone there is nobody left to tell.
        let _ = writeln!(io::stderr(), "uid-nri-plugin: {}", printable(&message));
        status
    }))
}

fn print(text: &str) -> Result<(), String> {
    match io::stdout().write_all(text.as_bytes()) {
        // A pipe into head or a pager, which has seen enough.
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(format!("cannot write: {e}")),
        _ => Ok(()),
    }
}

/// The plugin, which has no name among the modes: containerd starts it without options.
fn plugin(argv0: &OsStr, parser: Parser) -> Result<Outcome, Failure> {
    let say = |text| Ok(Outcome::Said(0, text));
    match options::parse(argv0, parser).map_err(Failure::WrongOptions)? {
        Asked::Help => {
            let modes = MODES.iter().map(|mode| format!("  {:<10} {}\n", mode.name, mode.summary)).collect::<String>();
            say(options::HELP.replace("{modes}\n", &modes))
        }
        Asked::Version => say(concat!("uid-nri-plugin ", env!("CARGO_PKG_VERSION"), "\n").to_owned()),
        Asked::Plugin(options) => nri::run(options).map(|()| Outcome::Said(0, String::new())).map_err(Failure::Failed),
    }
}
