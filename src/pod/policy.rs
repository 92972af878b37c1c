//! Configuration and pod annotation: which containers get a namespace, and which ids it must hold.

use std::collections::HashMap;

use crate::journal::Level;
use crate::map::cut;
use crate::map::pool::NodeIds;
use crate::map::ranges::Ranges;

/// The annotation, and the prefix of those that we write.
pub const ANNOTATION: &str = "uid-mapper.noderesource.dev";

/// Who gets a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inject {
    /// Containers with an id that the node lacks.
    Needed,
    /// Every container that may have one.
    All,
    /// Of pods with our annotation, those with an id that the node lacks.
    Annotated,
}

/// The plugin's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `inject`.
    pub inject: Inject,
    /// `claim-uids`: what every namespace holds if it can; never by itself a reason to make one.
    pub claim_uids: Ranges,
    /// `claim-gids`.
    pub claim_gids: Ranges,
    /// `skip-namespaces`: Kubernetes namespaces whose pods are left alone.
    pub skip_namespaces: Vec<String>,
    /// `collisions = refuse`; a default, which a pod may change for itself.
    pub refuse_collisions: bool,
    /// `log-level`.
    pub log_level: Option<Level>,
    /// `ping-group-range = node`.
    pub set_ping: bool,
}

impl Default for Config {
    fn default() -> Config {
        // What images of the wild use most above 2047: nobody, nogroup, distroless' nonroot, pause.
        let high = || Ranges::new(vec![65532..=65535]);
        Config {
            inject: Inject::Needed,
            claim_uids: high(),
            claim_gids: high(),
            skip_namespaces: Vec::new(),
            refuse_collisions: false,
            log_level: None,
            set_ping: true,
        }
    }
}

impl Config {
    /// Reads `key = value` lines; `#` starts a comment. An error names the line.
    pub fn parse(text: &str) -> Result<Config, String> {
        let mut config = Config::default();
        let mut seen: Vec<&str> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let fail = |why: String| format!("line {} of the configuration: {why}", index + 1);
            let (key, value) =
                line.split_once('=').ok_or_else(|| fail(format!("{:?} is not `key = value`", cut(line))))?;
            let (key, value) = (key.trim(), value.trim());
            if seen.contains(&key) {
                return Err(fail(format!("{key} is set twice")));
            }
            config.set(key, value).map_err(fail)?;
            seen.push(key);
        }
        Ok(config)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "inject" => {
                self.inject = match value {
                    "needed" => Inject::Needed,
                    "all" => Inject::All,
                    "annotated" => Inject::Annotated,
                    _ => return Err(not_one_of(key, value, "needed, all, annotated")),
                }
            }
            "claim-uids" => self.claim_uids = Ranges::parse(value).map_err(|e| format!("{key}: {e}"))?,
            "claim-gids" => self.claim_gids = Ranges::parse(value).map_err(|e| format!("{key}: {e}"))?,
            "skip-namespaces" => {
                let names = value.split([',', ' ']).filter(|name| !name.is_empty());
                self.skip_namespaces = names.map(str::to_owned).collect();
            }
            "collisions" => self.refuse_collisions = refuses(key, value)?,
            "log-level" => self.log_level = Some(Level::parse(value)?),
            "ping-group-range" => {
                self.set_ping = match value {
                    "node" => true,
                    "keep" => false,
                    _ => return Err(not_one_of(key, value, "node, keep")),
                }
            }
            _ => return Err(format!("unknown key {:?}", cut(key))),
        }
        Ok(())
    }
}

/// What a pod's annotation asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    always: bool,
    never: bool,
    claim_uids: Ranges,
    claim_gids: Ranges,
    refuse_collisions: Option<bool>,
}

impl Asked {
    /// Reads `inject=always claim-uids=50000,10001-10005 collisions=refuse`.
    pub fn parse(text: &str) -> Result<Asked, String> {
        let mut asked = Asked::default();
        for word in text.split_ascii_whitespace() {
            let (key, value) = word.split_once('=').ok_or_else(|| format!("{:?} is not key=value", cut(word)))?;
            match (key, value) {
                ("inject", "always") => asked.always = true,
                ("inject", "never") => asked.never = true,
                ("inject", _) => return Err(not_one_of(key, value, "always, never")),
                ("claim-uids", list) => asked.claim_uids = Ranges::parse(list).map_err(|e| format!("{key}: {e}"))?,
                ("claim-gids", list) => asked.claim_gids = Ranges::parse(list).map_err(|e| format!("{key}: {e}"))?,
                ("collisions", _) => asked.refuse_collisions = Some(refuses(key, value)?),
                _ => return Err(format!("unknown key {:?}", cut(key))),
            }
        }
        Ok(asked)
    }

    /// The annotation for one container, by NRI's scopes: the container's own, the pod's, the plain one.
    fn find<'a>(annotations: &'a HashMap<String, String>, container: &str) -> Option<&'a str> {
        let scopes = [format!("{ANNOTATION}/container.{container}"), format!("{ANNOTATION}/pod"), ANNOTATION.into()];
        scopes.iter().find_map(|key| annotations.get(key)).map(String::as_str)
    }
}

/// The user of a container's process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Additional group ids.
    pub additional_gids: Vec<u32>,
}

/// A container about to be created, as far as the decision needs it.
pub struct Candidate<'a> {
    /// The pod's Kubernetes namespace.
    pub namespace: &'a str,
    /// The pod's annotations.
    pub annotations: &'a HashMap<String, String>,
    /// The container's name.
    pub name: &'a str,
    /// A writable /sys.
    pub privileged: bool,
    /// Already in a user namespace (hostUsers: false).
    pub user_namespace: bool,
    /// Who it runs as, where the runtime tells.
    pub user: Option<User>,
}

/// What the runtime can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runtime {
    /// For messages.
    pub name: String,
    /// Takes a namespace in a container's adjustment (NRI 0.10, containerd 2.2).
    pub takes_namespaces: bool,
    /// Tells who a container runs as (containerd 2.3).
    pub tells_user: bool,
}

impl Runtime {
    /// By NRI's version where the runtime tells it (0.12 on), else by its own.
    pub fn new(name: &str, version: &str, nri: &str) -> Runtime {
        let own = (name == "containerd").then(|| major_minor(version)).flatten();
        // A runtime that was built without the module's version says 0.0.0-unknown.
        let at_least = |nri_least, own_least| match major_minor(nri) {
            Some(v) if v > (0, 0) => v >= nri_least,
            _ => own.is_some_and(|v| v >= own_least),
        };
        let nri_text = if nri.is_empty() { String::new() } else { format!(" (NRI {nri})") };
        Runtime {
            name: format!("{name} {version}{nri_text}"),
            takes_namespaces: at_least((0, 10), (2, 2)),
            tells_user: at_least((0, 12), (2, 3)),
        }
    }
}

/// `v2.3.4`, `2.2.1-k3s1` or `0.12.0` to (2, 3) and so on; None for anything else.
pub fn major_minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.strip_prefix('v').unwrap_or(version).split('.');
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?;
    let digits = minor.find(|c: char| !c.is_ascii_digit()).unwrap_or(minor.len());
    Some((major, minor[..digits].parse().ok()?))
}

/// What to do with a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing, and why.
    Leave(&'static str),
    /// It may not be created, and why.
    Refuse(String),
    /// It gets a user namespace with these ids.
    Inject(Wanted),
}

/// The ids that a namespace is made for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Who the process runs as, if known.
    pub user: Option<User>,
    /// Claimed by the annotation.
    pub annotated: Claims,
    /// Whether any collision refuses the container.
    pub refuse_collisions: bool,
}

/// Ids asked for by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// User ids.
    pub uids: Ranges,
    /// Group ids.
    pub gids: Ranges,
}

/// Decides about one container.
pub fn decide(config: &Config, uids: &NodeIds, gids: &NodeIds, runtime: &Runtime, c: &Candidate) -> Decision {
    if c.privileged {
        return Decision::Leave("it is privileged");
    }
    if c.user_namespace {
        return Decision::Leave("it has a user namespace already");
    }
    if config.skip_namespaces.iter().any(|name| name == c.namespace) {
        return Decision::Leave("its Kubernetes namespace is in skip-namespaces");
    }
    let annotation = Asked::find(c.annotations, c.name);
    let asked = match annotation.map(Asked::parse).transpose() {
        Ok(asked) => asked.unwrap_or_default(),
        Err(why) => return Decision::Refuse(format!("annotation {ANNOTATION}: {why}")),
    };
    if asked.never {
        return Decision::Leave("its annotation says inject=never");
    }
    if config.inject == Inject::Annotated && annotation.is_none() {
        return Decision::Leave("it has no annotation");
    }

    let lacking = first_lacking(uids, gids, c.user.as_ref(), &asked);
    if lacking.is_none() && !asked.always && config.inject != Inject::All {
        return Decision::Leave("the node maps every id that it asks for");
    }
    if !runtime.takes_namespaces {
        let need = lacking.map(|id| format!("it needs {id}, which this node does not map"));
        return match need.or_else(|| asked.always.then(|| "its annotation says inject=always".to_owned())) {
            Some(need) => Decision::Refuse(format!(
                "{need}, and {} cannot put a container into a user namespace through NRI: \
                 containerd 2.2 or later is needed",
                runtime.name
            )),
            None => Decision::Leave("the runtime cannot put it into a user namespace"),
        };
    }
    Decision::Inject(Wanted {
        user: c.user.clone(),
        annotated: Claims { uids: asked.claim_uids, gids: asked.claim_gids },
        refuse_collisions: asked.refuse_collisions.unwrap_or(config.refuse_collisions),
    })
}

/// The first id that the container asks for and the node lacks, in words.
fn first_lacking(uids: &NodeIds, gids: &NodeIds, user: Option<&User>, asked: &Asked) -> Option<String> {
    let uid = user.map(|u| u.uid).into_iter().chain(asked.claim_uids.ids()).find(|id| !uids.contains(*id));
    let own_gids = user.into_iter().flat_map(|u| [u.gid].into_iter().chain(u.additional_gids.iter().copied()));
    let gid = || own_gids.chain(asked.claim_gids.ids()).find(|id| !gids.contains(*id));
    uid.map(|id| format!("user id {id}")).or_else(|| gid().map(|id| format!("group id {id}")))
}

fn refuses(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "allow" => Ok(false),
        "refuse" => Ok(true),
        _ => Err(not_one_of(key, value, "allow, refuse")),
    }
}

fn not_one_of(key: &str, value: &str, choices: &str) -> String {
    format!("{key} is {:?}, not one of {choices}", cut(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::idmap::IdMap;

    fn node() -> NodeIds {
        NodeIds::new(&IdMap::parse("0 2937359488 2048").unwrap()).unwrap()
    }

    fn user(uid: u32, gid: u32, additional: &[u32]) -> Option<User> {
        Some(User { uid, gid, additional_gids: additional.to_vec() })
    }

    fn candidate<'a>(annotations: &'a HashMap<String, String>, user: Option<User>) -> Candidate<'a> {
        Candidate { namespace: "default", annotations, name: "app", privileged: false, user_namespace: false, user }
    }

    fn annotated(value: &str) -> HashMap<String, String> {
        HashMap::from([(ANNOTATION.to_owned(), value.to_owned())])
    }

    fn current() -> Runtime {
        Runtime::new("containerd", "v2.3.4", "v0.12.2")
    }

    fn decision(config: &str, annotation: Option<&str>, user: Option<User>) -> Decision {
        let annotations = annotation.map(annotated).unwrap_or_default();
        let config = Config::parse(config).unwrap();
        decide(&config, &node(), &node(), &current(), &candidate(&annotations, user))
    }

    fn injected(d: Decision) -> bool {
        matches!(d, Decision::Inject(_))
    }

    #[test]
    fn configuration() {
        assert_eq!(Config::parse("").unwrap(), Config::default());
        let text = "# all\n inject = all  # every one\nclaim-uids=10001-10003\r\nclaim-gids =\n\
                    skip-namespaces = kube-system, monitoring\ncollisions = refuse\nlog-level = debug\n\
                    ping-group-range = keep";
        let config = Config::parse(text).unwrap();
        assert_eq!(config.inject, Inject::All);
        assert_eq!(config.claim_uids.to_string(), "10001-10003");
        assert_eq!(config.claim_gids, Ranges::default());
        assert_eq!(config.skip_namespaces, ["kube-system", "monitoring"]);
        assert!(config.refuse_collisions && !config.set_ping);
        assert_eq!(config.log_level, Some(Level::Debug));
    }

    #[test]
    fn configuration_errors_name_the_line() {
        for (text, error) in [
            ("inject = always", "inject is \"always\", not one of needed, all, annotated"),
            ("injekt = all", "unknown key \"injekt\""),
            ("inject", "\"inject\" is not `key = value`"),
            ("claim-uids = 1,x", "claim-uids: \"x\" is not an id (0-4294967294)"),
            ("claim-gids = 4294967295", "claim-gids: \"4294967295\" is not an id (0-4294967294)"),
            ("collisions = maybe", "collisions is \"maybe\", not one of allow, refuse"),
            ("log-level = loud", "\"loud\" is not a log level (debug, info, warning, error)"),
            ("ping-group-range = 0 5", "ping-group-range is \"0 5\", not one of node, keep"),
        ] {
            let error = format!("line 2 of the configuration: {error}");
            assert_eq!(Config::parse(&format!("# first\n{text}\n")).unwrap_err(), error);
        }
        assert_eq!(
            Config::parse("inject=all\ninject=all").unwrap_err(),
            "line 2 of the configuration: inject is set twice"
        );
    }

    #[test]
    fn needed_is_by_id() {
        assert!(!injected(decision("", None, user(0, 0, &[]))));
        assert!(!injected(decision("", None, user(2047, 2047, &[1, 2]))));
        assert!(injected(decision("", None, user(10001, 0, &[]))));
        assert!(injected(decision("", None, user(0, 10001, &[]))));
        assert!(injected(decision("", None, user(0, 0, &[5, 50000]))));
        // The configured claims alone are no reason, and an unknown user is none.
        assert_eq!(decision("", None, None), Decision::Leave("the node maps every id that it asks for"));
        assert!(injected(decision("", Some("claim-gids=50000"), None)));
        assert!(!injected(decision("", Some("claim-gids=500"), None)));
        assert!(injected(decision("", Some("inject=always"), user(0, 0, &[]))));
        assert!(injected(decision("inject=all", None, user(0, 0, &[]))));
        assert!(!injected(decision("inject=all", Some("inject=never"), user(10001, 0, &[]))));
        assert!(!injected(decision("inject=annotated", None, user(10001, 0, &[]))));
        assert!(injected(decision("inject=annotated", Some(""), user(10001, 0, &[]))));
        assert!(!injected(decision("inject=annotated", Some(""), user(1, 0, &[]))));
        assert!(!injected(decision("skip-namespaces=a default", None, user(10001, 0, &[]))));
    }

    #[test]
    fn some_containers_are_never_touched() {
        let annotations = annotated("inject=always");
        let config = Config::parse("inject=all").unwrap();
        let flags: [fn(&mut Candidate); 2] = [|c| c.privileged = true, |c| c.user_namespace = true];
        for set in flags {
            let mut c = candidate(&annotations, user(10001, 0, &[]));
            set(&mut c);
            assert!(matches!(decide(&config, &node(), &node(), &current(), &c), Decision::Leave(_)));
        }
    }

    #[test]
    fn the_nearest_scope_wins() {
        let keyed = |suffix: &str, value: &str| (format!("{ANNOTATION}{suffix}"), value.to_owned());
        let all = HashMap::from([
            keyed("", "claim-uids=1"),
            keyed("/pod", "claim-uids=2"),
            keyed("/container.app", "claim-uids=3"),
            keyed("/uid-mappings", "[]"),
        ]);
        assert_eq!(Asked::find(&all, "app"), Some("claim-uids=3"));
        assert_eq!(Asked::find(&all, "other"), Some("claim-uids=2"));
        assert_eq!(Asked::find(&annotated("x"), "app"), Some("x"));
    }

    #[test]
    fn the_pod_has_the_last_word_on_collisions() {
        let refuses = |config, annotation| match decision(config, Some(annotation), user(10001, 0, &[])) {
            Decision::Inject(wanted) => wanted.refuse_collisions,
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
            match decision("", Some(&text), None) {
                Decision::Refuse(why) => assert!(why.len() < 600, "{} bytes", why.len()),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_bad_annotation_refuses() {
        for (text, error) in [
            ("inject", "\"inject\" is not key=value"),
            ("inject=maybe", "inject is \"maybe\", not one of always, never"),
            ("claim-uids=5-", "claim-uids: \"\" is not an id (0-4294967294)"),
            ("colour=red", "unknown key \"colour\""),
            ("collisions=", "collisions is \"\", not one of allow, refuse"),
        ] {
            let error = format!("annotation {ANNOTATION}: {error}");
            assert_eq!(decision("", Some(text), None), Decision::Refuse(error));
        }
    }

    #[test]
    fn runtimes_by_version() {
        let can = |name, version, nri| {
            let r = Runtime::new(name, version, nri);
            (r.takes_namespaces, r.tells_user)
        };
        assert_eq!(can("containerd", "v2.3.4", "v0.12.0"), (true, true));
        assert_eq!(can("containerd", "2.2.1-k3s1", ""), (true, false));
        assert_eq!(can("containerd", "v2.2.0", "unknown"), (true, false));
        assert_eq!(can("containerd", "v2.3.4", "0.0.0-unknown"), (true, true));
        assert_eq!(can("containerd", "v2.3.4", "(devel)"), (true, true));
        assert_eq!(can("containerd", "v2.1.9", ""), (false, false));
        assert_eq!(can("containerd", "1.7.24", ""), (false, false));
        assert_eq!(can("containerd", "v3.0.0", ""), (true, true));
        assert_eq!(can("cri-o", "9.9.9", ""), (false, false));
        assert_eq!(can("cri-o", "9.9.9", "0.12.1"), (true, true));
        assert_eq!(can("containerd", "", ""), (false, false));
    }

    #[test]
    fn a_runtime_without_namespaces_refuses_what_needs_one() {
        let old = Runtime::new("containerd", "v2.1.9", "");
        let decide = |config: &str, annotation: &str| {
            let annotations = annotated(annotation);
            let config = Config::parse(config).unwrap();
            super::decide(&config, &node(), &node(), &old, &candidate(&annotations, None))
        };
        assert_eq!(
            decide("", "claim-uids=10001"),
            Decision::Refuse(
                "it needs user id 10001, which this node does not map, and containerd v2.1.9 cannot put a container \
                 into a user namespace through NRI: containerd 2.2 or later is needed"
                    .into()
            )
        );
        assert!(matches!(decide("", "inject=always"), Decision::Refuse(_)));
        assert!(matches!(decide("inject=all", ""), Decision::Leave(_)));
    }
}
