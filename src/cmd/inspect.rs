//! `inspect`: a container's user namespace in the form of an OCI runtime configuration.

use lexopt::prelude::*;

use super::container::{self, Container};
use super::json::{self, object};
use crate::map::idmap::IdMap;

pub const HELP: &str = "\
uid-nri-plugin inspect: a running container's user namespace as OCI JSON

Usage: uid-nri-plugin inspect [--state DIR] ID

ID is a container's id, or the beginning of one. What is printed has the form
of a runtime configuration (config.json), with the map that the container's
first process really has: hostID is the node's id. A container that has no
user namespace of its own has no mappings.

Options:
      --state DIR  where containerd keeps the bundles of what runs [default:
                   /run/containerd/io.containerd.runtime.v2.task]
  -h, --help       print this

Examples:
  uid-nri-plugin inspect 4d2a | jq .linux.uidMappings
  uid-nri-plugin inspect $(crictl ps -q --name web)
";

#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    id: String,
    state: String,
}

/// Reads the options. None: help.
pub fn parse(mut parser: lexopt::Parser) -> Result<Option<Options>, lexopt::Error> {
    let (mut id, mut state) = (None, container::STATE.to_owned());
    while let Some(argument) = parser.next()? {
        match argument {
            Short('h') | Long("help") => return Ok(None),
            Long("state") => state = parser.value()?.string()?,
            Value(word) if id.is_none() => id = Some(word.string()?),
            other => return Err(other.unexpected()),
        }
    }
    Ok(Some(Options { id: id.ok_or("inspect needs a container id")?, state }))
}

pub fn run(options: Options) -> Result<(u8, String), String> {
    Ok((0, json(&container::find(&options.state, &options.id)?)))
}

fn json(c: &Container) -> String {
    // One element a line.
    let lines = |list: json::Value| match list.list() {
        [] => "[]".to_owned(),
        list => {
            format!("[\n      {}\n    ]", list.iter().map(ToString::to_string).collect::<Vec<_>>().join(",\n      "))
        }
    };
    let user = |path: &String| object! { "type": "user", "path": path };
    let map = |map: &IdMap| lines(if c.own.is_some() { map.into() } else { json::Value::List(Vec::new()) });
    let (version, namespaces) = (json::Value::from(&c.version), lines(c.own.iter().map(user).collect()));
    let (uids, gids) = (map(&c.maps.uids), map(&c.maps.gids));
    format!(
        "{{\n  \"ociVersion\": {version},\n  \"linux\": {{\n    \"namespaces\": {namespaces},\n    \
         \"uidMappings\": {uids},\n    \"gidMappings\": {gids}\n  }}\n}}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::json::Value;

    #[test]
    fn is_part_of_a_runtime_configuration() {
        let c = container::tests::container();
        assert_eq!(
            json(&c),
            r#"{
  "ociVersion": "1.3.0",
  "linux": {
    "namespaces": [
      {"type":"user","path":"/run/uid-nri-plugin/pods/p/0.user"}
    ],
    "uidMappings": [
      {"containerID":0,"hostID":0,"size":1809},
      {"containerID":1810,"hostID":1810,"size":234},
      {"containerID":10001,"hostID":1809,"size":1},
      {"containerID":65532,"hostID":2044,"size":4}
    ],
    "gidMappings": [
      {"containerID":0,"hostID":0,"size":2048}
    ]
  }
}
"#
        );
        let none = Value::parse(&json(&Container { own: None, ..c })).unwrap();
        assert_eq!(none.at(&["linux", "uidMappings"]), Some(&Value::List(Vec::new())));
    }

    #[test]
    fn options_are_read() {
        let parsed = |words: &[&str]| parse(lexopt::Parser::from_args(words)).map_err(|e| e.to_string());
        assert_eq!(parsed(&["4d"]), Ok(Some(Options { id: "4d".into(), state: container::STATE.into() })));
        assert_eq!(parsed(&["--state=/s", "4d"]), Ok(Some(Options { id: "4d".into(), state: "/s".into() })));
        assert_eq!(parsed(&["4d", "--help"]), Ok(None));
        assert_eq!(parsed(&[]).unwrap_err(), "inspect needs a container id");
        assert_eq!(parsed(&["a", "b"]).unwrap_err(), "unexpected argument \"b\"");
        assert!(HELP.lines().all(|l| l.len() <= 80));
    }
}
