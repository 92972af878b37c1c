//! The operator's tools: each reads, says what it found, and changes nothing.

pub mod check;
pub mod container;
pub mod explain;
pub mod image;
pub mod inspect;
pub mod json;
pub mod manifest;
pub mod nest;
pub mod picture;
pub mod plan;
pub mod show;
pub mod source;
pub mod subid;
pub mod wrap;

use crate::map::idmap::IdMap;

/// A tool and what it was asked.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Plan a node's map.
    Plan(plan::Options),
    /// Check a node.
    Check(check::Options),
    /// Show maps.
    Show(show::Options),
    /// Explain ids.
    Explain(explain::Options),
    /// Show a container's namespace as OCI JSON.
    Inspect(inspect::Options),
}

/// What comes of a tool's command line.
pub enum Asked {
    /// To run it.
    Run(Command),
    /// Its help.
    Help(&'static str),
}

/// Reads the rest of the command line of the tool of this name; None: there is no such tool.
pub fn parse(name: &str, parser: lexopt::Parser) -> Option<Result<Asked, String>> {
    fn asked<O>(
        options: Result<Option<O>, String>,
        help: &'static str,
        command: fn(O) -> Command,
    ) -> Option<Result<Asked, String>> {
        Some(options.map(|o| o.map_or(Asked::Help(help), |o| Asked::Run(command(o)))))
    }
    match name {
        "plan" => asked(plan::parse(parser), plan::HELP, Command::Plan),
        "check" => asked(check::parse(parser), check::HELP, Command::Check),
        "show" => asked(show::parse(parser), show::HELP, Command::Show),
        "explain" => asked(explain::parse(parser), explain::HELP, Command::Explain),
        "inspect" => asked(inspect::parse(parser), inspect::HELP, Command::Inspect),
        _ => None,
    }
}

/// Runs a tool. The exit code, and its text for stdout.
pub fn run(command: Command) -> Result<(u8, String), String> {
    match command {
        Command::Plan(options) => plan::run(options),
        Command::Check(options) => check::run(options),
        Command::Show(options) => show::run(options),
        Command::Explain(options) => explain::run(options),
        Command::Inspect(options) => inspect::run(options),
    }
}

/// A map's extents as Podman and newuidmap write them: `container:host:amount`.
pub fn colons(map: &IdMap) -> impl Iterator<Item = String> + '_ {
    map.extents().iter().map(|e| format!("{}:{}:{}", e.inside, e.outside, e.count))
}
