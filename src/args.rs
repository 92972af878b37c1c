//! The command line.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use lexopt::prelude::*;

use crate::cmd::{self, Asked};
use crate::journal::Level;

/// What `--help` prints.
pub const HELP: &str = "\
uid-nri-plugin: lets pods use any user id in a node with few subordinate ids

Usage: uid-nri-plugin [OPTIONS]
       uid-nri-plugin supervise [--log-level LEVEL] -- COMMAND [ARGUMENT...]
       uid-nri-plugin plan | check | show | explain | inspect [OPTIONS]

containerd launches it from /opt/nri/plugins/00-uid-mapper, without options.
Started otherwise it connects to a running containerd, and does so again when
containerd restarts. Only one instance acts at a time; others stand by.

supervise runs a command, such as containerd or kubelet, so that chown and
set-id calls below it succeed for ids that the node lacks: they are done with
the id that the rule gives. Its exit status is the command's.

Tools for operators, each with a --help of its own:
  plan     the id map that a node should get, and the options for Podman
  check    whether pods can use any id on this node, with remedies
  show     the node's map, or a container's, or a chain of maps, as a picture
  explain  what becomes of an id on this node
  inspect  a running container's user namespace as OCI JSON

Options:
      --socket PATH      NRI socket [default: /var/run/nri/nri.sock]
      --name NAME        plugin name [default: from argv[0], else uid-mapper]
      --index NN         plugin index, NN [default: from argv[0], else 00]
      --config FILE      configuration [default: what containerd hands over,
                         else /etc/nri/conf.d/NN-NAME.conf or NAME.conf]
      --log-level LEVEL  debug, info, warning or error [default: info]
  -h, --help             print this
  -V, --version          print the version

Examples:
  uid-nri-plugin --config /etc/nri/conf.d/00-uid-mapper.conf --log-level debug
  uid-nri-plugin supervise -- containerd

Exit status: 0 when containerd closed the connection or a tool has done its
work, 1 on failure, 2 for wrong options; check also has 1 for a warning and 2
for a problem. Messages go to the journal, or to stderr where there is none.
";

/// Where NRI listens by default.
const SOCKET: &str = "/var/run/nri/nri.sock";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Be the plugin.
    Plugin(Options),
    /// Run a command and fold its calls.
    Supervise {
        /// The command and its arguments.
        command: Vec<OsString>,
        /// `--log-level`.
        log_level: Option<Level>,
    },
    /// Run one of the tools.
    Tool(cmd::Command),
    /// Print this help.
    Help(&'static str),
    /// Print the version.
    Version,
}

/// How to be the plugin.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// `--socket`, or its default.
    pub socket: PathBuf,
    /// Whether `--socket` was given, so that an inherited socket does not count.
    pub socket_given: bool,
    /// `--name`, or argv[0]'s.
    pub name: String,
    /// `--index`, or argv[0]'s.
    pub index: String,
    /// `--config`.
    pub config: Option<PathBuf>,
    /// `--log-level`.
    pub log_level: Option<Level>,
}

/// Reads the arguments, argv[0] first. An error is one line.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, String> {
    let mut arguments = arguments.into_iter();
    let (index, name) = from_argv0(&arguments.next().unwrap_or_default());
    let mut options =
        Options { socket: SOCKET.into(), socket_given: false, name, index, config: None, log_level: None };
    let mut parser = lexopt::Parser::from_args(arguments);
    let text = |e: lexopt::Error| e.to_string();
    let mut begun = false;
    while let Some(argument) = parser.next().map_err(text)? {
        match argument {
            Short('h') | Long("help") => return Ok(Command::Help(HELP)),
            Short('V') | Long("version") => return Ok(Command::Version),
            Long("socket") => {
                options.socket = parser.value().map_err(text)?.into();
                options.socket_given = true;
            }
            Long("name") => {
                options.name = parser.value().and_then(|v| v.string()).map_err(text)?;
                if options.name.is_empty() {
                    return Err("--name may not be empty".into());
                }
            }
            Long("index") => {
                options.index = parser.value().and_then(|v| v.string()).map_err(text)?;
                if !is_index(&options.index) {
                    return Err(format!("--index takes two digits, not {:?}", options.index));
                }
            }
            Long("config") => options.config = Some(parser.value().map_err(text)?.into()),
            Long("log-level") => {
                let value = parser.value().and_then(|v| v.string()).map_err(text)?;
                options.log_level = Some(Level::parse(&value)?);
            }
            Value(word) if !begun => {
                return match word.to_str().unwrap_or_default() {
                    "supervise" => supervise(parser),
                    name => match cmd::parse(name, parser) {
                        Some(asked) => asked.map(|asked| match asked {
                            Asked::Run(command) => Command::Tool(command),
                            Asked::Help(text) => Command::Help(text),
                        }),
                        None => Err(format!("unexpected argument {word:?}")),
                    },
                };
            }
            other => return Err(other.unexpected().to_string()),
        }
        begun = true;
    }
    Ok(Command::Plugin(options))
}

/// What follows `supervise`.
fn supervise(mut parser: lexopt::Parser) -> Result<Command, String> {
    let text = |e: lexopt::Error| e.to_string();
    let (mut command, mut log_level) = (Vec::new(), None);
    while let Some(argument) = parser.next().map_err(text)? {
        match argument {
            Short('h') | Long("help") => return Ok(Command::Help(HELP)),
            Long("log-level") => {
                let value = parser.value().and_then(|v| v.string()).map_err(text)?;
                log_level = Some(Level::parse(&value)?);
            }
            Value(word) => {
                command.push(word);
                command.extend(parser.raw_args().map_err(text)?);
            }
            other => return Err(other.unexpected().to_string()),
        }
    }
    match command.is_empty() {
        true => Err("supervise needs a command".into()),
        false => Ok(Command::Supervise { command, log_level }),
    }
}

/// `/opt/nri/plugins/00-uid-mapper` is index 00, name uid-mapper.
fn from_argv0(argv0: &OsStr) -> (String, String) {
    let file = Path::new(argv0).file_name().and_then(OsStr::to_str).unwrap_or_default();
    match file.split_once('-') {
        Some((index, name)) if is_index(index) && !name.is_empty() => (index.into(), name.into()),
        _ => ("00".into(), "uid-mapper".into()),
    }
}

fn is_index(text: &str) -> bool {
    text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<Command, String> {
        parse(words.iter().map(OsString::from))
    }

    fn options(words: &[&str]) -> Options {
        match parsed(words) {
            Ok(Command::Plugin(options)) => options,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn names_come_from_argv0() {
        let named = |argv0| {
            let o = options(&[argv0]);
            (o.index, o.name)
        };
        assert_eq!(named("/opt/nri/plugins/42-some-name"), ("42".into(), "some-name".into()));
        for other in ["uid-nri-plugin", "4-x", "xx-y", "42-", "", "/"] {
            assert_eq!(named(other), ("00".into(), "uid-mapper".into()));
        }
    }

    #[test]
    fn options_are_read() {
        let o = options(&["x", "--socket=/s", "--name", "n", "--index", "07", "--config", "/c", "--log-level=debug"]);
        let expected = Options {
            socket: "/s".into(),
            socket_given: true,
            name: "n".into(),
            index: "07".into(),
            config: Some("/c".into()),
            log_level: Some(Level::Debug),
        };
        assert_eq!(o, expected);
        assert_eq!(parsed(&["x", "-h", "--nonsense"]), Ok(Command::Help(HELP)));
        assert_eq!(parsed(&["x", "-V"]), Ok(Command::Version));
    }

    #[test]
    fn supervise_takes_a_command() {
        let command = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        for words in [&["x", "supervise", "--", "a", "--help", "-x"][..], &["x", "supervise", "a", "--help", "-x"]] {
            let expected = Command::Supervise { command: command(&["a", "--help", "-x"]), log_level: None };
            assert_eq!(parsed(words), Ok(expected));
        }
        let expected = Command::Supervise { command: command(&["a"]), log_level: Some(Level::Debug) };
        assert_eq!(parsed(&["x", "supervise", "--log-level", "debug", "--", "a"]), Ok(expected));
        assert_eq!(parsed(&["x", "supervise"]).unwrap_err(), "supervise needs a command");
        assert_eq!(parsed(&["x", "supervise", "--socket", "a"]).unwrap_err(), "invalid option '--socket'");
        assert_eq!(parsed(&["x", "--name=n", "supervise", "a"]).unwrap_err(), "unexpected argument \"supervise\"");
    }

    #[test]
    fn errors_are_one_line() {
        for (words, error) in [
            (&["x", "--sockets"][..], "invalid option '--sockets'"),
            (&["x", "run"], "unexpected argument \"run\""),
            (&["x", "--socket"], "missing argument for option '--socket'"),
            (&["x", "--index", "7"], "--index takes two digits, not \"7\""),
            (&["x", "--name="], "--name may not be empty"),
            (&["x", "--log-level", "loud"], "\"loud\" is not a log level (debug, info, warning, error)"),
        ] {
            assert_eq!(parsed(words).unwrap_err(), error);
        }
    }
}
