//! The command line of the plugin.

use std::ffi::OsStr;
use std::path::Path;

use lexopt::prelude::*;

use super::Options;
use crate::journal::Level;

/// What `--help` prints; the modes are filled in.
pub const HELP: &str = "\
uid-nri-plugin: lets pods use any user id in a node with few subordinate ids

Usage: uid-nri-plugin [OPTIONS]
       uid-nri-plugin node [OPTIONS] -- INIT [ARGUMENT...]
       uid-nri-plugin supervise [OPTIONS] -- COMMAND [ARGUMENT...]
       uid-nri-plugin plan | check | show | explain | inspect [OPTIONS]

Each of these has a --help of its own:
{modes}

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

/// Where NRI listens by default.
const SOCKET: &str = "/var/run/nri/nri.sock";

/// What the command line of the plugin asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    Plugin(Options),
    Help,
    Version,
}

/// Reads the arguments after argv[0]. An error is one line.
pub fn parse(argv0: &OsStr, mut parser: lexopt::Parser) -> Result<Asked, String> {
    let (index, name) = from_argv0(argv0);
    let mut options =
        Options { socket: SOCKET.into(), socket_given: false, name, index, config: None, log_level: None };
    let text = |e: lexopt::Error| e.to_string();
    while let Some(argument) = parser.next().map_err(text)? {
        match argument {
            Short('h') | Long("help") => return Ok(Asked::Help),
            Short('V') | Long("version") => return Ok(Asked::Version),
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
            other => return Err(other.unexpected().to_string()),
        }
    }
    Ok(Asked::Plugin(options))
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

    fn parsed(words: &[&str]) -> Result<Asked, String> {
        parse(OsStr::new(words[0]), lexopt::Parser::from_args(&words[1..]))
    }

    fn options(words: &[&str]) -> Options {
        match parsed(words) {
            Ok(Asked::Plugin(options)) => options,
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
        assert_eq!(parsed(&["x", "-h", "--nonsense"]), Ok(Asked::Help));
        assert_eq!(parsed(&["x", "-V"]), Ok(Asked::Version));
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
