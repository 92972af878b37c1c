//! `inspect`: a container's user namespace in the form of an OCI runtime configuration.

use lexopt::prelude::*;

use super::container::{self, Container};
use super::json::quote;
use super::source;

/// What `inspect --help` prints.
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

/// What was asked.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    id: String,
    state: String,
}

/// Reads the options. None: help.
pub fn parse(mut parser: lexopt::Parser) -> Result<Option<Options>, String> {
    let text = |e: lexopt::Error| e.to_string();
    let (mut id, mut state) = (None, container::STATE.to_owned());
    while let Some(argument) = parser.next().map_err(text)? {
        match argument {
            Short('h') | Long("help") => return Ok(None),
            Long("state") => state = source::word(&mut parser)?,
            Value(word) if id.is_none() => id = Some(word.string().map_err(text)?),
            other => return Err(other.unexpected().to_string()),
        }
    }
    Ok(Some(Options { id: id.ok_or("inspect needs a container id")?, state }))
}

/// Does it.
pub fn run(options: Options) -> Result<(u8, String), String> {
    Ok((0, json(&container::find(&options.state, &options.id)?)))
}

fn json(c: &Container) -> String {
    let linux = match &c.own {
        None => "\"namespaces\": [],\n    \"uidMappings\": [],\n    \"gidMappings\": []".to_owned(),
        Some(path) => {
            // One mapping a line.
            let lines = |map: String| map.replace('{', "\n      {").replace(']', "\n    ]");
            format!(
                "\"namespaces\": [\n      {{\"type\":\"user\",\"path\":{}}}\n    ],\n    \
                 \"uidMappings\": {},\n    \"gidMappings\": {}",
                quote(path),
                lines(c.uids.oci()),
                lines(c.gids.oci())
            )
        }
    };
    format!("{{\n  \"ociVersion\": {},\n  \"linux\": {{\n    {linux}\n  }}\n}}\n", quote(&c.version))
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
        let parsed = |words: &[&str]| parse(lexopt::Parser::from_args(words));
        assert_eq!(parsed(&["4d"]), Ok(Some(Options { id: "4d".into(), state: container::STATE.into() })));
        assert_eq!(parsed(&["--state=/s", "4d"]), Ok(Some(Options { id: "4d".into(), state: "/s".into() })));
        assert_eq!(parsed(&["4d", "--help"]), Ok(None));
        assert_eq!(parsed(&[]).unwrap_err(), "inspect needs a container id");
        assert_eq!(parsed(&["a", "b"]).unwrap_err(), "unexpected argument \"b\"");
        assert!(HELP.lines().all(|l| l.len() <= 80));
    }
}
