//! `check`: can this node, or this account, do it? Findings, each with its remedy.

/// Judges one thing after the other: each finding has the name of the function that judges it.
macro_rules! judge {
    ($facts:ident: $($judge:ident),*) => {
        vec![$({
            let mut finding = Finding::new(stringify!($judge));
            $judge(&mut finding, $facts);
            finding
        }),*]
    };
}

mod config;
mod facts;
mod host;
mod kernel;
mod node;
pub mod programs;

use lexopt::prelude::*;

use super::json::{self, object};
use super::text::{WIDTH, fill, put};
use crate::map::printable;

pub const HELP: &str = "\
uid-nri-plugin check: whether pods can use any id on this node

Usage: uid-nri-plugin check [--host] [--json]

Says of a node whether pods can use any id in it: one line a finding, ok,
warning or problem, and below it a remedy to paste. Run it inside the node, as
its root; or with --host before there is one, as the user who is to start it.
Everything is tried out, with newuidmap and newgidmap too, and nothing changed.

Options:
      --host     check the account and the machine instead of the node
      --json     print the findings as one JSON document
  -h, --help     print this

In a node: ids (its maps and pools), root (its rights, user namespaces),
sandboxes (the pause image's id), kernel, containerd, kubelet (is it under
supervise), plugin, runtime (runc or crun), others (what is in the way),
journald, cgroup. On a host: ids (what getsubids lists, or subuid and subgid),
newuidmap, namespaces, kernel, others, cgroup, session (XDG_RUNTIME_DIR,
linger), network (modules, rp_filter), fuse, engine (is it rootless).

Where containerd runs under supervise, a pod whose own seccomp profile
notifies does not start (EBUSY): the kernel allows one listener.

Examples:
  uid-nri-plugin check --host
  podman exec node uid-nri-plugin check
  uid-nri-plugin check --json | jq -r '.checks[].remedy // empty'

Exit status: 0 all is ok, 1 there are warnings, 2 there are problems, 3 it
could not run. What keeps every pod from starting is a problem.
";

/// The text of the plugin's configuration on this node; empty if there is none.
pub fn configuration() -> String {
    facts::drop_in(&programs::plugins("/opt/nri/plugins")).1
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    host: bool,
    json: bool,
}

/// Reads the options. None: help.
pub fn parse(mut parser: lexopt::Parser) -> Result<Option<Options>, lexopt::Error> {
    let mut options = Options::default();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("host") => options.host = true,
            Long("json") => options.json = true,
            Short('h') | Long("help") => return Ok(None),
            other => return Err(other.unexpected()),
        }
    }
    Ok(Some(options))
}

/// Gathers and judges. The exit code is the worst state's.
pub fn run(options: Options) -> Result<(u8, String), String> {
    let findings = if options.host { host::check() } else { node::check() };
    let state = worst(&findings);
    let text = if options.json { json(&findings, state) } else { findings.iter().map(Finding::text).collect() };
    Ok((state as u8, text))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Ok,
    Warning,
    Problem,
}

impl State {
    fn name(self) -> &'static str {
        ["ok", "warning", "problem"][self as usize]
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    name: &'static str,
    state: State,
    found: String,
    /// Lines for a shell.
    remedy: Vec<String>,
}

impl Finding {
    fn new(name: &'static str) -> Finding {
        Finding { name, state: State::Ok, found: String::new(), remedy: Vec::new() }
    }

    /// Adds something that is as it should be.
    fn note(&mut self, what: &str) {
        if !self.found.is_empty() {
            self.found.push_str("; ");
        }
        // Names of files and what programs print may hold anything.
        self.found += &printable(what);
    }

    /// Says what is as it should be, where nothing else was said.
    fn note_if_empty(&mut self, what: &str) {
        if self.found.is_empty() {
            self.note(what);
        }
    }

    /// Adds something that is not, with what to do: lines for a shell.
    fn fault(&mut self, state: State, what: &str, remedy: &str) {
        self.note(what);
        self.state = self.state.max(state);
        for line in remedy.lines() {
            // A restart, for example, serves all that came before it.
            self.remedy.retain(|earlier| earlier != line);
            self.remedy.push(line.to_owned());
        }
    }

    fn warn(&mut self, what: &str, remedy: &str) {
        self.fault(State::Warning, what, remedy);
    }

    fn problem(&mut self, what: &str, remedy: &str) {
        self.fault(State::Problem, what, remedy);
    }

    fn text(&self) -> String {
        let mut text = String::new();
        lay(&mut text, &format!("{:<9}{:<12}", self.state.name(), self.name), &self.found, false);
        self.remedy.iter().for_each(|line| lay(&mut text, "         ", line, true));
        text
    }

    fn json(&self) -> json::Value {
        let remedy = (!self.remedy.is_empty()).then(|| self.remedy.join("\n"));
        object! { "name": self.name, "state": self.state.name(), "found": &self.found, "remedy": remedy.as_ref() }
    }
}

fn worst(findings: &[Finding]) -> State {
    findings.iter().map(|f| f.state).max().unwrap_or(State::Ok)
}

fn json(findings: &[Finding], state: State) -> String {
    let checks: json::Value = findings.iter().map(Finding::json).collect();
    object! { "checks": checks, "state": state.name() }.to_string() + "\n"
}

/// Adds a text beside a label. Long text goes on in the next lines: prose is broken at any blank, and in words that are
/// longer than a line; a command where a shell takes a backslash, but never in words, since they are to be pasted.
fn lay(out: &mut String, label: &str, text: &str, command: bool) {
    let room = WIDTH - label.len();
    if !command {
        fill(out, label, 0, "", &mut text.split(' ').flat_map(|word| pieces(word, room)));
    } else if text.starts_with('#') || text.chars().count() <= room {
        put(out, format_args!("{label}{text}\n"));
    } else {
        let mut quoted = false;
        let ends = |c| {
            quoted ^= c == '\'';
            c == ' ' && !quoted
        };
        fill(out, label, 2, " \\", &mut text.split(ends));
    }
}

/// A word in pieces of at most `most` characters; an empty one is one piece.
fn pieces(word: &str, most: usize) -> impl Iterator<Item = &str> {
    let mut rest = Some(word);
    std::iter::from_fn(move || {
        let word = rest?;
        let end = word.char_indices().nth(most).map(|(at, _)| at);
        rest = end.map(|end| &word[end..]);
        Some(&word[..end.unwrap_or(word.len())])
    })
}

/// A word for a shell, without what would steer a terminal.
fn shell(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-+:,=@%".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.into();
    }
    let harmless: String = word.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    format!("'{}'", harmless.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<Option<Options>, String> {
        parse(lexopt::Parser::from_args(words)).map_err(|e| e.to_string())
    }

    #[test]
    fn options_are_read() {
        assert_eq!(parsed(&[]), Ok(Some(Options { host: false, json: false })));
        assert_eq!(parsed(&["--json", "--host"]), Ok(Some(Options { host: true, json: true })));
        assert_eq!(parsed(&["--host", "-h"]), Ok(None));
        assert_eq!(parsed(&["--node"]).unwrap_err(), "invalid option '--node'");
        assert_eq!(parsed(&["x"]).unwrap_err(), "unexpected argument \"x\"");
        assert!(HELP.lines().all(|line| line.len() <= 80));
    }

    #[test]
    fn findings_are_printed() {
        let mut f = Finding::new("plugin");
        f.note("/opt/nri/plugins/00-uid-mapper");
        assert_eq!(f.text(), "ok       plugin      /opt/nri/plugins/00-uid-mapper\n");
        f.warn("no instance acts, and nobody knows why that is so\u{1b}[2J", "systemctl restart containerd");
        f.problem("a third", "a 'b c' d\ne");
        let expected = "\
problem  plugin      /opt/nri/plugins/00-uid-mapper; no instance acts, and
                     nobody knows why that is so\\u{1b}[2J; a third
         systemctl restart containerd
         a 'b c' d
         e
";
        assert_eq!(f.text(), expected);
        let expected = "{\"checks\":[{\"name\":\"plugin\",\"state\":\"problem\",\"found\":\"/opt/nri/plugins/00-uid-mapper; \
            no instance acts, and nobody knows why that is so\\\\u{1b}[2J; a third\",\"remedy\":\"systemctl restart containerd\\n\
            a 'b c' d\\ne\"},{\"name\":\"x\",\"state\":\"ok\",\"found\":\"\",\"remedy\":null}],\"state\":\"problem\"}\n";
        let all = [f, Finding::new("x")];
        assert_eq!(json(&all, worst(&all)), expected);
        assert_eq!([State::Ok as u8, State::Warning as u8, State::Problem as u8], [0, 1, 2]);
    }

    #[test]
    fn long_text_is_broken() {
        let laid = |text: &str, indent, command| {
            let mut out = String::new();
            lay(&mut out, &" ".repeat(indent), text, command);
            out.split_off(indent)
        };
        // Room for 5 and 9 columns.
        assert_eq!(laid("aa bb cc", 75, false).split_ascii_whitespace().collect::<Vec<_>>(), ["aa", "bb", "cc"]);
        assert_eq!(laid("aa bb cc", 75, false), format!("aa bb\n{:75}cc\n", ""));
        assert_eq!(laid("aaaaaaa bb", 75, false), format!("aaaaa\n{0:75}aa bb\n", ""));
        assert_eq!(laid("", 75, false), "\n");
        assert_eq!(laid("ééééé é", 75, false), format!("ééééé\n{:75}é\n", ""));
        assert_eq!(laid("aa bb cc dd", 71, true), format!("aa bb \\\n{:73}cc dd\n", ""));
        assert_eq!(laid("aa bb ccc", 71, true), "aa bb ccc\n");
        assert_eq!(laid("aa 'b  c' dd e", 71, true), format!("aa \\\n{0:73}'b  c' \\\n{0:73}dd e\n", ""));
        assert_eq!(laid("aaaaaaaaaaaaaa b", 71, true), format!("aaaaaaaaaaaaaa \\\n{:73}b\n", ""));
        assert_eq!(laid("# a remark that is long", 71, true), "# a remark that is long\n");
        assert_eq!(laid("aaaaaaaaaaaaaaaa", 71, true), "aaaaaaaaaaaaaaaa\n");
    }

    #[test]
    fn words_are_quoted_for_the_shell() {
        assert_eq!(shell("/opt/nri/plugins/00-uid-mapper"), "/opt/nri/plugins/00-uid-mapper");
        assert_eq!(shell("a b"), "'a b'");
        assert_eq!(shell("$(id)'\n"), "'$(id)'\\''?'");
        assert_eq!(shell(""), "''");
    }
}
