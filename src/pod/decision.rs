//! Whether a container gets a user namespace, and with which maps.

use std::collections::HashMap;

use super::config::{self, ANNOTATION, Inject, Overrides, PluginConfig, PodInject};
use super::features::RuntimeFeatures;
use super::image::ImageNames;
use crate::map::assign::{Assignment, Wants, assign};
use crate::map::kind::{Both, Kind};
use crate::map::pool::NodeIds;
use crate::map::ranges::Ranges;

/// A container about to be created: all that the decision needs to know of it.
pub struct Candidate<'a> {
    /// The pod's Kubernetes namespace.
    pub namespace: &'a str,
    /// The pod's.
    pub annotations: &'a HashMap<String, String>,
    /// The container's.
    pub name: &'a str,
    pub privileged: bool,
    /// It has a user namespace already (hostUsers: false).
    pub user_namespace: bool,
    pub host_network: bool,
    /// Who the process runs as: its uid; its gid, then its additional gids. Empty where the runtime does not tell.
    pub process: Both<Vec<u32>>,
    /// Ids that options of its mounts name.
    pub mounts: Both<Vec<u32>>,
    pub image: ImageNames<'a>,
}

/// Why a container gets no user namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoNamespace {
    /// It needs none.
    Leave(&'static str),
    /// The node has no slots for its ids: it may be created where supervise folds them.
    NoRoom(String),
    /// It may not be created.
    Refuse(String),
}

use NoNamespace::{Leave, NoRoom, Refuse};

/// The maps for a container. The configured claims, unlike all else, are no reason for a namespace.
pub fn decide(
    config: &PluginConfig,
    node: &Both<NodeIds>,
    features: &RuntimeFeatures,
    c: &Candidate,
) -> Result<Both<Assignment>, NoNamespace> {
    let overrides = overrides(config, node, features, c)?;
    let strict = overrides.refuse_collisions == Some(true);
    let maps = Both::try_new(|kind| {
        let process = c.process.of(kind);
        let others = [process.get(1..).unwrap_or_default(), c.mounts.of(kind)].concat();
        let optional = [overrides.claims.of(kind), config.defaults.claims.of(kind)];
        let wants = Wants { primary: process.first().copied(), others: &others, optional: &optional };
        assign(node.of(kind), &wants).map_err(|e| {
            let why = format!("{} ids: {e}", kind.word());
            if e.is_want_of_room() && !strict { NoRoom(why) } else { Refuse(why) }
        })
    })?;
    let collision = |kind: Kind| Some(maps.of(kind).collisions.first()?.describe(kind));
    match Kind::BOTH.into_iter().find_map(collision) {
        Some(why) if strict => Err(Refuse(format!("collisions=refuse, and {why}"))),
        _ => Ok(maps),
    }
}

/// What holds for a container that gets a namespace.
fn overrides(
    config: &PluginConfig,
    node: &Both<NodeIds>,
    features: &RuntimeFeatures,
    c: &Candidate,
) -> Result<Overrides, NoNamespace> {
    if c.privileged {
        return Err(Leave("it is privileged"));
    }
    if c.user_namespace {
        return Err(Leave("it has a user namespace already"));
    }
    if c.host_network {
        return Err(Leave("it uses the node's network"));
    }
    if config.skip_namespaces.iter().any(|name| name == c.namespace) {
        return Err(Leave("its Kubernetes namespace is in skip-namespaces"));
    }
    let (annotation, line) = (config::annotation(c.annotations, c.name), config.of_image(&c.image));
    let mut overrides = line.cloned().unwrap_or_default();
    let read = overrides.read(annotation.unwrap_or_default());
    read.map_err(|why| Refuse(format!("annotation {ANNOTATION}: {why}")))?;
    overrides.refuse_collisions = overrides.refuse_collisions.or(config.defaults.refuse_collisions);
    if overrides.inject == PodInject::Never {
        return Err(Leave("its annotation or its image's line says inject=never"));
    }
    if config.inject == Inject::Annotated && annotation.is_none() && line.is_none() {
        return Err(Leave("it has no annotation, and its image no line"));
    }

    let lacking = first_lacking(node, c, &overrides.claims);
    let always = overrides.inject == PodInject::Always;
    if lacking.is_none() && !always && config.inject != Inject::All {
        return Err(Leave("the node maps every id that it asks for"));
    }
    if features.takes_namespaces {
        return Ok(overrides);
    }
    let need = match lacking {
        Some(id) => format!("it needs {id}, which this node does not map"),
        None if always => "its annotation says inject=always".to_owned(),
        None => return Err(Leave("the runtime cannot put it into a user namespace")),
    };
    Err(Refuse(format!(
        "{need}, and {} cannot put a container into a user namespace through NRI: containerd 2.2 or later is needed",
        features.runtime
    )))
}

/// The first id that the container asks for and the node lacks, in words.
fn first_lacking(node: &Both<NodeIds>, c: &Candidate, claims: &Both<Ranges>) -> Option<String> {
    Kind::BOTH.into_iter().find_map(|kind| {
        let mut ids = c.process.of(kind).iter().copied().chain(claims.of(kind).ids());
        let id = ids.find(|id| !node.of(kind).contains(*id))?;
        Some(format!("{} id {id}", kind.word()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::idmap::IdMap;
    use crate::pod::image::tests::POSTGRES;

    fn node() -> Both<NodeIds> {
        Both::new(|_| NodeIds::new(&IdMap::parse("0 2937359488 2048").unwrap()).unwrap())
    }

    fn user(uid: u32, gid: u32, additional: &[u32]) -> Both<Vec<u32>> {
        Both { uids: vec![uid], gids: [&[gid], additional].concat() }
    }

    fn untold() -> Both<Vec<u32>> {
        Both::default()
    }

    fn candidate<'a>(annotations: &'a HashMap<String, String>, process: Both<Vec<u32>>) -> Candidate<'a> {
        Candidate {
            namespace: "default",
            annotations,
            name: "app",
            privileged: false,
            user_namespace: false,
            host_network: false,
            process,
            mounts: Both::default(),
            image: POSTGRES,
        }
    }

    fn annotated(value: &str) -> HashMap<String, String> {
        HashMap::from([(ANNOTATION.to_owned(), value.to_owned())])
    }

    fn current() -> RuntimeFeatures {
        RuntimeFeatures::new("containerd", "v2.3.4", "v0.12.2")
    }

    fn decision(config: &str, annotation: Option<&str>, process: Both<Vec<u32>>) -> Result<Overrides, NoNamespace> {
        let annotations = annotation.map(annotated).unwrap_or_default();
        let config = PluginConfig::parse(config).unwrap();
        overrides(&config, &node(), &current(), &candidate(&annotations, process))
    }

    fn injected(d: Result<Overrides, NoNamespace>) -> bool {
        d.is_ok()
    }

    #[test]
    fn needed_is_by_id() {
        assert!(!injected(decision("", None, user(0, 0, &[]))));
        assert!(!injected(decision("", None, user(2047, 2047, &[1, 2]))));
        assert!(injected(decision("", None, user(10001, 0, &[]))));
        assert!(injected(decision("", None, user(0, 10001, &[]))));
        assert!(injected(decision("", None, user(0, 0, &[5, 50000]))));
        // The configured claims alone are no reason, and an unknown user is none.
        assert_eq!(decision("", None, untold()), Err(Leave("the node maps every id that it asks for")));
        assert!(injected(decision("", Some("claim-gids=50000"), untold())));
        assert!(!injected(decision("", Some("claim-gids=500"), untold())));
        assert!(injected(decision("", Some("inject=always"), user(0, 0, &[]))));
        assert!(injected(decision("inject=all", None, user(0, 0, &[]))));
        assert!(!injected(decision("inject=all", Some("inject=never"), user(10001, 0, &[]))));
        assert!(!injected(decision("inject=annotated", None, user(10001, 0, &[]))));
        assert!(injected(decision("inject=annotated", Some(""), user(10001, 0, &[]))));
        assert!(!injected(decision("inject=annotated", Some(""), user(1, 0, &[]))));
        assert!(!injected(decision("skip-namespaces=a default", None, user(10001, 0, &[]))));
    }

    #[test]
    fn an_image_is_a_reason_for_a_namespace() {
        let root = || user(0, 0, &[]);
        let claims = |config: &str, annotation| match decision(config, annotation, root()) {
            Ok(overrides) => {
                let mark = if overrides.refuse_collisions == Some(true) { "!" } else { "" };
                format!("{}/{}{mark}", overrides.claims.uids, overrides.claims.gids)
            }
            Err(Leave(why)) => why.to_owned(),
            Err(NoRoom(why) | Refuse(why)) => why,
        };
        let line = "image postgres claim-uids=70000,70001 claim-gids=71000";
        let never = "its annotation or its image's line says inject=never";
        assert_eq!(claims(line, None), "70000-70001/71000");
        assert_eq!(claims("image mysql claim-uids=70000", None), "the node maps every id that it asks for");
        assert_eq!(claims("image postgres claim-uids=1000", None), "the node maps every id that it asks for");
        assert_eq!(claims("image postgres inject=always", None), "/");
        // The first line counts, whole.
        assert_eq!(claims(&format!("image *:17 claim-uids=9999\n{line}"), None), "9999/");
        // What the annotation leaves open is the line's.
        assert_eq!(claims(line, Some("claim-uids=50000")), "50000/71000");
        assert_eq!(claims(line, Some("inject=never")), never);
        assert_eq!(claims(&format!("{line} inject=never"), Some("claim-uids=5000")), never);
        assert_eq!(claims(&format!("{line} inject=never"), Some("inject=auto")), "70000-70001/71000");
        assert_eq!(claims(&format!("{line} collisions=refuse"), None), "70000-70001/71000!");
        assert_eq!(claims(&format!("{line} collisions=refuse"), Some("collisions=allow")), "70000-70001/71000");
        // A line is as good as an annotation, and less than a namespace that is left alone.
        assert_eq!(claims(&format!("inject=annotated\n{line}"), None), "70000-70001/71000");
        let skipped = "its Kubernetes namespace is in skip-namespaces";
        assert_eq!(claims(&format!("skip-namespaces=default\n{line}"), None), skipped);
    }

    #[test]
    fn some_containers_are_never_touched() {
        let annotations = annotated("inject=always");
        let config = PluginConfig::parse("inject=all").unwrap();
        let flags: [fn(&mut Candidate); 3] =
            [|c| c.privileged = true, |c| c.user_namespace = true, |c| c.host_network = true];
        let decided = |c: &Candidate| decide(&config, &node(), &current(), c);
        assert!(decided(&candidate(&annotations, user(10001, 0, &[]))).is_ok());
        for set in flags {
            let mut c = candidate(&annotations, user(10001, 0, &[]));
            set(&mut c);
            assert!(matches!(decided(&c), Err(Leave(_))));
        }
    }

    #[test]
    fn the_pod_has_the_last_word_on_collisions() {
        let refuses = |config, annotation| match decision(config, Some(annotation), user(10001, 0, &[])) {
            Ok(overrides) => overrides.refuse_collisions == Some(true),
            other => panic!("{other:?}"),
        };
        assert!(!refuses("", "") && !refuses("collisions=refuse", "collisions=allow"));
        assert!(refuses("", "collisions=refuse") && refuses("collisions=refuse", "inject=always"));
    }

    #[test]
    fn messages_do_not_grow_with_the_annotation() {
        for text in
            [format!("claim-uids={}", "\u{1}".repeat(200_000)), format!("claim-uids={}5-3", "0".repeat(200_000))]
        {
            match decision("", Some(&text), untold()) {
                Err(Refuse(why)) => assert!(why.len() < 600, "{} bytes", why.len()),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_bad_annotation_refuses() {
        for (text, error) in [
            ("inject", "\"inject\" is not key=value"),
            ("inject=maybe", "inject is \"maybe\", not one of auto, always, never"),
            ("claim-uids=5-", "claim-uids: \"\" is not an id (0-4294967294)"),
            ("colour=red", "unknown key \"colour\""),
            ("collisions=", "collisions is \"\", not one of allow, refuse"),
        ] {
            let error = format!("annotation {ANNOTATION}: {error}");
            assert_eq!(decision("", Some(text), untold()), Err(Refuse(error)));
        }
    }

    #[test]
    fn a_runtime_without_namespaces_refuses_what_needs_one() {
        let old = RuntimeFeatures::new("containerd", "v2.1.9", "");
        let decide = |config: &str, annotation: &str| {
            let annotations = annotated(annotation);
            let config = PluginConfig::parse(config).unwrap();
            super::decide(&config, &node(), &old, &candidate(&annotations, untold()))
        };
        assert_eq!(
            decide("", "claim-uids=10001"),
            Err(Refuse(
                "it needs user id 10001, which this node does not map, and containerd v2.1.9 cannot put a container \
                 into a user namespace through NRI: containerd 2.2 or later is needed"
                    .into()
            ))
        );
        assert!(matches!(decide("", "inject=always"), Err(Refuse(_))));
        assert!(matches!(decide("inject=all", ""), Err(Leave(_))));
    }

    #[test]
    fn want_of_room_and_collisions() {
        let config = PluginConfig::parse("claim-uids=\nclaim-gids=").unwrap();
        let small = Both::new(|_| NodeIds::new(&IdMap::parse("0 1 3").unwrap()).unwrap());
        let decided = |annotation: &str, gids: &[u32], mounts: &[u32]| {
            let annotations = annotated(annotation);
            let mut c = candidate(&annotations, user(0, 0, gids));
            c.mounts.gids = mounts.to_vec();
            decide(&config, &small, &current(), &c).map(|maps| maps.gids.map.to_string())
        };
        // 4, 6 and 10 belong on slot 1; then there is 2.
        assert_eq!(decided("", &[4, 6], &[]).unwrap(), "0 0 1\n4 1 1\n6 2 1\n");
        assert_eq!(decided("", &[4], &[1]).unwrap(), "0 0 2\n4 2 1\n");
        let why = "group ids: no slot is left for id 10: the node's pool has 3 ids, and 0 is root's";
        assert_eq!(decided("", &[4, 6, 10], &[]), Err(NoRoom(why.into())));
        assert_eq!(decided("collisions=refuse", &[4, 6, 10], &[]), Err(Refuse(why.into())));
        let why = "collisions=refuse, and gid 6 belongs on slot 1, which gid 4 holds; it is on slot 2 instead";
        assert_eq!(decided("collisions=refuse", &[4, 6], &[]), Err(Refuse(why.into())));
    }
}
