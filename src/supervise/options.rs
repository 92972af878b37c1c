//! What `supervise` and `node` are told.

use std::ffi::OsString;

use lexopt::prelude::*;

use super::Beside;
use crate::journal::Level;

/// Where NRI listens by default.
const SOCKET: &str = "/var/run/nri/nri.sock";

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

/// What to become, and how.
#[derive(Debug, PartialEq, Eq)]
pub struct Become {
    /// The command and its arguments.
    pub command: Vec<OsString>,
    pub beside: Beside,
    pub log_level: Option<Level>,
}

/// What follows `supervise`.
pub fn supervise(mut parser: lexopt::Parser) -> Result<Option<Become>, String> {
    let text = |e: lexopt::Error| e.to_string();
    let (mut command, mut log_level) = (Vec::new(), None);
    while let Some(argument) = parser.next().map_err(text)? {
        match argument {
            Short('h') | Long("help") => return Ok(None),
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
        false => Ok(Some(Become { command, beside: Beside { fold: true, ..Beside::default() }, log_level })),
    }
}

/// What follows `node`.
pub fn node(mut parser: lexopt::Parser) -> Result<Option<Become>, String> {
    let text = |e: lexopt::Error| e.to_string();
    let (mut command, mut log_level) = (Vec::new(), None);
    let (mut fold, mut with_plugin) = (true, true);
    // Named as it is where containerd launches it, so that it reads the same configuration.
    let mut plugin: Vec<OsString> = vec!["00-uid-mapper".into(), "--socket".into(), SOCKET.into()];
    while let Some(argument) = parser.next().map_err(text)? {
        match argument {
            Short('h') | Long("help") => return Ok(None),
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
            Ok(Some(Become { command, beside, log_level }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sup(all: &[&str]) -> Result<Option<Become>, String> {
        supervise(lexopt::Parser::from_args(words(all)))
    }

    fn nod(all: &[&str]) -> Result<Option<Become>, String> {
        node(lexopt::Parser::from_args(words(all)))
    }

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn supervise_takes_a_command() {
        let becomes = |words_of: &[&str], log_level| {
            let beside = Beside { fold: true, plugin: None, keep_stderr: false };
            Ok(Some(Become { command: words(words_of), beside, log_level }))
        };
        for words in [&["--", "a", "--help", "-x"][..], &["a", "--help", "-x"]] {
            assert_eq!(sup(words), becomes(&["a", "--help", "-x"], None));
        }
        assert_eq!(sup(&["--log-level", "debug", "--", "a"]), becomes(&["a"], Some(Level::Debug)));
        assert_eq!(sup(&["--help"]), Ok(None));
        assert_eq!(sup(&[]).unwrap_err(), "supervise needs a command");
        assert_eq!(sup(&["--socket", "a"]).unwrap_err(), "invalid option '--socket'");
    }

    #[test]
    fn node_takes_an_init() {
        let becomes = |init: &[&str], fold, plugin: Option<&[&str]>, log_level| {
            let beside = Beside { fold, plugin: plugin.map(words), keep_stderr: true };
            Ok(Some(Become { command: words(init), beside, log_level }))
        };
        let plugin = ["00-uid-mapper", "--socket", SOCKET];
        assert_eq!(nod(&["--", "/sbin/init", "-x"]), becomes(&["/sbin/init", "-x"], true, Some(&plugin), None));
        assert_eq!(nod(&["--no-plugin", "--", "i"]), becomes(&["i"], true, None, None));
        let all = ["--no-supervise", "--socket", "/s", "--config=/c", "--log-level", "error", "--", "i"];
        let plugin = ["00-uid-mapper", "--socket", "/s", "--config", "/c", "--log-level", "error"];
        assert_eq!(nod(&all), becomes(&["i"], false, Some(&plugin), Some(Level::Error)));
        assert_eq!(nod(&["-h"]), Ok(None));
        assert_eq!(nod(&[]).unwrap_err(), "node needs the program that the node starts with");
        assert_eq!(nod(&["--log-level=x", "i"]).unwrap_err(), "\"x\" is not a log level (debug, info, warning, error)");
    }
}
