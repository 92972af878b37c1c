//! The command line.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use lexopt::prelude::*;

use crate::cmd::{self, Asked};
use crate::journal::Level;
use crate::supervise::Beside;

/// What `--help` prints.
pub const HELP: &str = "\
uid-nri-plugin: lets pods use any user id in a node with few subordinate ids

Usage: uid-nri-plugin [OPTIONS]
       uid-nri-plugin node [OPTIONS] -- INIT [ARGUMENT...]
       uid-nri-plugin supervise [OPTIONS] -- COMMAND [ARGUMENT...]
       uid-nri-plugin plan | check | show | explain | inspect [OPTIONS]

Each of these has a --help of its own:
  node       all of it, for a whole node: its entrypoint runs this
  supervise  folds the chown and set-id calls of one command
  plan       the id map that a node should get, and the options for Podman
  check      whether pods can use any id on this node, with remedies
  show       the node's map, or a container's, or a chain of maps, as a picture
  explain    what becomes of an id on this node
  inspect    a running container's user namespace as OCI JSON

Without one of these it is the NRI plugin. containerd launches it from
/opt/nri/plugins/00-uid-mapper, without options. Started otherwise it connects
to a running containerd, and does so again when containerd restarts. Only one
instance acts at a time; others stand by.

Options:
      --socket PATH      NRI socket [default: /var/run/nri/nri.sock]
      --name NAME        plugin name [default: from argv[0], else uid-mapper]
      --index NN         plugin index, NN [default: from argv[0], else 00]
      --config FILE      configuration [default: what containerd hands over,
                         else /etc/nri/conf.d/NN-NAME.conf or NAME.conf]
      --log-level LEVEL  debug, info, warning or error [default: info]
  -h, --help             print this
  -V, --version          print the version

Example:
  uid-nri-plugin --config /etc/nri/conf.d/00-uid-mapper.conf --log-level debug

Exit status: 0 when containerd closed the connection or a tool has done its
work, 1 on failure, 2 for wrong options; check has 1 for a warning, 2 for a
problem, 3 for failure and wrong options. Messages go to the journal, or to
stderr where there is none.
";

/// What `node --help` prints.
pub const NODE_HELP: &str = "\
uid-nri-plugin node: starts a node in which pods can use any user id

Usage: uid-nri-plugin node [OPTIONS] -- INIT [ARGUMENT...]

Becomes INIT, the node's first program, in the same process. Beside it two
things run for as long as the node does: supervise, for everything in the node,
and the NRI plugin, which waits for containerd, connects again when containerd
restarts, and is started again when it dies. In the node's Dockerfile:

  COPY --from=uid-nri-plugin /uid-nri-plugin /usr/local/bin/uid-nri-plugin
  ENTRYPOINT [\"uid-nri-plugin\", \"node\", \"--\", (the entrypoint as it was)]

Options:
      --no-supervise     only keep the plugin running
      --no-plugin        only supervise
      --socket PATH      NRI socket [default: /var/run/nri/nri.sock]
      --config FILE      the plugin's configuration
                         [default: /etc/nri/conf.d/00-uid-mapper.conf, if any]
      --log-level LEVEL  debug, info, warning or error [default: info]
  -h, --help             print this

Messages go to the journal once there is one, and before that to stderr
(podman logs). Processes that enter the node by podman exec are not below INIT,
and are not supervised.

Exit status: that of INIT; 127 if it is not found, 126 if it cannot be run,
1 if supervise cannot be set up, 2 for wrong options.
";

/// What `supervise --help` prints.
pub const SUPERVISE_HELP: &str = "\
uid-nri-plugin supervise: folds the chown and set-id calls of a command

Usage: uid-nri-plugin supervise [OPTIONS] -- COMMAND [ARGUMENT...]

Becomes COMMAND, in the same process. chown and set-id calls of it, and of all
that it starts, succeed for ids that the node's user namespace lacks: they are
done with the id that the rule gives (see explain). Below another supervise it
only becomes the command, since its calls are folded already.

Options:
      --log-level LEVEL  debug, info, warning or error [default: info]
  -h, --help             print this

Examples:
  uid-nri-plugin supervise -- containerd
  podman unshare uid-nri-plugin supervise -- podman build -t node .

Exit status: that of COMMAND; 127 if it is not found, 126 if it cannot be run,
1 if the server cannot be set up, 2 for wrong options. Messages go to the
journal, or to stderr where there is none, unless that is a pipe.
";

/// Where NRI listens by default.
const SOCKET: &str = "/var/run/nri/nri.sock";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Be the plugin.
    Plugin(Options),
    /// Become a command.
    Become {
        /// The command and its arguments.
        command: Vec<OsString>,
        /// What is to run beside it.
        beside: Beside,
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
            Long("log-level") => options.log_level = Some(level(&mut parser)?),
            Value(word) if !begun => {
                return match word.to_str().unwrap_or_default() {
                    "supervise" => supervise(parser),
                    "node" => node(parser),
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
            Short('h') | Long("help") => return Ok(Command::Help(SUPERVISE_HELP)),
            Long("log-level") => log_level = Some(level(&mut parser)?),
            Value(word) => {
                command.push(word);
                command.extend(parser.raw_args().map_err(text)?);
            }
            other => return Err(other.unexpected().to_string()),
        }
    }
    match command.is_empty() {
        true => Err("supervise needs a command".into()),
        false => Ok(Command::Become { command, beside: Beside { fold: true, ..Beside::default() }, log_level }),
    }
}

/// What follows `node`.
fn node(mut parser: lexopt::Parser) -> Result<Command, String> {
    let text = |e: lexopt::Error| e.to_string();
    let (mut command, mut log_level) = (Vec::new(), None);
    let (mut fold, mut with_plugin) = (true, true);
    // Named as it is where containerd launches it, so that it reads the same configuration.
    let mut plugin: Vec<OsString> = vec!["00-uid-mapper".into(), "--socket".into(), SOCKET.into()];
    while let Some(argument) = parser.next().map_err(text)? {
        match argument {
            Short('h') | Long("help") => return Ok(Command::Help(NODE_HELP)),
            Long("no-supervise") => fold = false,
            Long("no-plugin") => with_plugin = false,
            Long("socket") => plugin[2] = parser.value().map_err(text)?,
            Long("config") => plugin.extend(["--config".into(), parser.value().map_err(text)?]),
            Long("log-level") => {
                let value = parser.value().and_then(|v| v.string()).map_err(text)?;
                log_level = Some(Level::parse(&value)?);
                plugin.extend(["--log-level".into(), value.into()]);
            }
            Value(word) => {
                command.push(word);
                command.extend(parser.raw_args().map_err(text)?);
            }
            other => return Err(other.unexpected().to_string()),
        }
    }
    match command.is_empty() {
        true => Err("node needs the program that the node starts with".into()),
        false => {
            let beside = Beside { fold, plugin: with_plugin.then_some(plugin), keep_stderr: true };
            Ok(Command::Become { command, beside, log_level })
        }
    }
}

fn level(parser: &mut lexopt::Parser) -> Result<Level, String> {
    let value = parser.value().and_then(|v| v.string()).map_err(|e| e.to_string())?;
    Level::parse(&value)
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

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn supervise_takes_a_command() {
        let becomes = |words_of: &[&str], log_level| {
            let beside = Beside { fold: true, plugin: None, keep_stderr: false };
            Ok(Command::Become { command: words(words_of), beside, log_level })
        };
        for words in [&["x", "supervise", "--", "a", "--help", "-x"][..], &["x", "supervise", "a", "--help", "-x"]] {
            assert_eq!(parsed(words), becomes(&["a", "--help", "-x"], None));
        }
        assert_eq!(parsed(&["x", "supervise", "--log-level", "debug", "--", "a"]), becomes(&["a"], Some(Level::Debug)));
        assert_eq!(parsed(&["x", "supervise", "--help"]), Ok(Command::Help(SUPERVISE_HELP)));
        assert_eq!(parsed(&["x", "supervise"]).unwrap_err(), "supervise needs a command");
        assert_eq!(parsed(&["x", "supervise", "--socket", "a"]).unwrap_err(), "invalid option '--socket'");
        assert_eq!(parsed(&["x", "--name=n", "supervise", "a"]).unwrap_err(), "unexpected argument \"supervise\"");
    }

    #[test]
    fn node_takes_an_init() {
        let becomes = |init: &[&str], fold, plugin: Option<&[&str]>, log_level| {
            let beside = Beside { fold, plugin: plugin.map(words), keep_stderr: true };
            Ok(Command::Become { command: words(init), beside, log_level })
        };
        let plugin = ["00-uid-mapper", "--socket", SOCKET];
        assert_eq!(
            parsed(&["x", "node", "--", "/sbin/init", "-x"]),
            becomes(&["/sbin/init", "-x"], true, Some(&plugin), None)
        );
        assert_eq!(parsed(&["x", "node", "--no-plugin", "--", "i"]), becomes(&["i"], true, None, None));
        let all = ["x", "node", "--no-supervise", "--socket", "/s", "--config=/c", "--log-level", "error", "--", "i"];
        let plugin = ["00-uid-mapper", "--socket", "/s", "--config", "/c", "--log-level", "error"];
        assert_eq!(parsed(&all), becomes(&["i"], false, Some(&plugin), Some(Level::Error)));
        assert_eq!(parsed(&["x", "node", "-h"]), Ok(Command::Help(NODE_HELP)));
        assert_eq!(parsed(&["x", "node"]).unwrap_err(), "node needs the program that the node starts with");
        assert_eq!(
            parsed(&["x", "node", "--log-level=x", "i"]).unwrap_err(),
            "\"x\" is not a log level (debug, info, warning, error)"
        );
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
