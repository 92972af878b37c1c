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
    /// `image`: patterns, and what is asked for containers of these images; the first that matches counts.
    pub images: Vec<(String, Asked)>,
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
            images: Vec::new(),
        }
    }
}

impl Config {
    /// Reads `key = value` and `image PATTERN …` lines; `#` starts a comment. An error names the line.
    pub fn parse(text: &str) -> Result<Config, String> {
        let mut config = Config::default();
        let mut seen: Vec<&str> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let fail = |why: String| format!("line {} of the configuration: {why}", index + 1);
            if let Some(("image", rest)) = line.split_once(char::is_whitespace) {
                config.add_image(rest.trim_start()).map_err(fail)?;
                continue;
            }
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

    /// Takes `PATTERN claim-uids=70000 …`.
    fn add_image(&mut self, line: &str) -> Result<(), String> {
        let (pattern, words) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let mut asked = Asked::default();
        asked.read(words)?;
        let whole = match pattern.split_once('/') {
            _ if is_digest(pattern) || pattern.starts_with('*') => pattern.to_owned(),
            _ if pattern.starts_with("sha256:") => {
                return Err(format!("{:?} is not sha256: and 64 digits of 0-9 and a-f", cut(pattern)));
            }
            // As short names are written out by containerd (distribution/reference, ParseDockerRef).
            None => format!("docker.io/library/{pattern}"),
            Some((host, _)) if host == "localhost" || host.contains(['.', ':', '*']) => pattern.to_owned(),
            Some(_) => format!("docker.io/{pattern}"),
        };
        if self.images.iter().any(|(other, _)| *other == whole) {
            return Err(format!("image {:?} is set twice", cut(pattern)));
        }
        self.images.push((whole, asked));
        Ok(())
    }

    /// The line that counts for an image: its pattern, and what it asks for.
    pub fn line_of(&self, image: &Image) -> Option<&(String, Asked)> {
        self.images.iter().find(|(pattern, _)| image.is(pattern))
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

/// Whether a container gets a namespace: if it needs one, or in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Ask {
    #[default]
    Auto,
    Always,
    Never,
}

/// What a pod's annotation or an `image` line asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    inject: Ask,
    /// The ids.
    pub claims: Claims,
    refuse_collisions: Option<bool>,
}

impl Asked {
    /// Takes over what `inject=always claim-uids=50000,10001-10005 collisions=refuse` names.
    fn read(&mut self, text: &str) -> Result<(), String> {
        for word in text.split_ascii_whitespace() {
            let (key, value) = word.split_once('=').ok_or_else(|| format!("{:?} is not key=value", cut(word)))?;
            match (key, value) {
                ("inject", "always") => self.inject = Ask::Always,
                ("inject", "never") => self.inject = Ask::Never,
                ("inject", "auto") => self.inject = Ask::Auto,
                ("inject", _) => return Err(not_one_of(key, value, "auto, always, never")),
                ("claim-uids", list) => self.claims.uids = Ranges::parse(list).map_err(|e| format!("{key}: {e}"))?,
                ("claim-gids", list) => self.claims.gids = Ranges::parse(list).map_err(|e| format!("{key}: {e}"))?,
                ("collisions", _) => self.refuse_collisions = Some(refuses(key, value)?),
                _ => return Err(format!("unknown key {:?}", cut(key))),
            }
        }
        Ok(())
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

/// What a runtime tells of an image (NRI 0.12.2, containerd 2.4). Each is empty where it does not.
#[derive(Clone, Copy, Debug, Default)]
pub struct Image<'a> {
    /// One of its names, such as `docker.io/library/postgres:17`: chosen by whoever had it pulled.
    pub name: &'a str,
    /// The digest of its index or manifest, and that of its configuration.
    pub digests: [&'a str; 2],
}

impl Image<'_> {
    /// Whether a pattern is one of the digests, or matches the name, whole or without its tag or digest.
    fn is(&self, pattern: &str) -> bool {
        let name = self.name;
        // A colon before a slash is that of a port.
        let slash = name.rfind('/').unwrap_or(0);
        let repository = name[slash..].find([':', '@']).map_or(name, |end| &name[..slash + end]);
        let is_named = !name.is_empty() && (matches(pattern, name) || matches(pattern, repository));
        is_named || self.digests.contains(&pattern)
    }
}

/// Whether `*` in the pattern can stand for something so that it is the text; in time linear in both.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let (parts, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    let Some(mut text) = text.strip_prefix(first).and_then(|text| text.strip_suffix(last)) else { return false };
    parts.split('*').all(|part| text.split_once(part).map(|(_, after)| text = after).is_some())
}

fn is_digest(text: &str) -> bool {
    let hex = |c| matches!(c, b'0'..=b'9' | b'a'..=b'f');
    text.strip_prefix("sha256:").is_some_and(|digits| digits.len() == 64 && digits.bytes().all(hex))
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
    /// What it is made of, where the runtime tells.
    pub image: Image<'a>,
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
    /// Claimed by the annotation or the image's line.
    pub claims: Claims,
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
    let (annotation, line) = (Asked::find(c.annotations, c.name), config.line_of(&c.image));
    let mut asked = line.map(|(_, asked)| asked.clone()).unwrap_or_default();
    if let Err(why) = asked.read(annotation.unwrap_or_default()) {
        return Decision::Refuse(format!("annotation {ANNOTATION}: {why}"));
    }
    if asked.inject == Ask::Never {
        return Decision::Leave("its annotation or its image's line says inject=never");
    }
    if config.inject == Inject::Annotated && annotation.is_none() && line.is_none() {
        return Decision::Leave("it has no annotation, and its image no line");
    }

    let lacking = first_lacking(uids, gids, c.user.as_ref(), &asked.claims);
    let always = asked.inject == Ask::Always;
    if lacking.is_none() && !always && config.inject != Inject::All {
        return Decision::Leave("the node maps every id that it asks for");
    }
    if !runtime.takes_namespaces {
        let need = lacking.map(|id| format!("it needs {id}, which this node does not map"));
        return match need.or_else(|| always.then(|| "its annotation says inject=always".to_owned())) {
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
        claims: asked.claims,
        refuse_collisions: asked.refuse_collisions.unwrap_or(config.refuse_collisions),
    })
}

/// The first id that the container asks for and the node lacks, in words.
fn first_lacking(uids: &NodeIds, gids: &NodeIds, user: Option<&User>, claims: &Claims) -> Option<String> {
    let uid = user.map(|u| u.uid).into_iter().chain(claims.uids.ids()).find(|id| !uids.contains(*id));
    let own_gids = user.into_iter().flat_map(|u| [u.gid].into_iter().chain(u.additional_gids.iter().copied()));
    let gid = || own_gids.chain(claims.gids.ids()).find(|id| !gids.contains(*id));
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

    const POSTGRES: Image<'_> = Image {
        name: "docker.io/library/postgres:17",
        digests: [
            "sha256:ee6521f290b2168b6aa9e6bd8ad0e69d78ed9f6a3c0e5aef8ca9d51876a3f2c1",
            "sha256:873ed75102791e5b0b8a7fcd41606c92fcec98d56d05ead4ac5131650004c136",
        ],
    };

    fn candidate<'a>(annotations: &'a HashMap<String, String>, user: Option<User>) -> Candidate<'a> {
        let (privileged, user_namespace) = (false, false);
        Candidate { namespace: "default", annotations, name: "app", privileged, user_namespace, user, image: POSTGRES }
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
            ("image = a", "\"a\" is not key=value"),
            ("image\tx claim-uids=y", "claim-uids: \"y\" is not an id (0-4294967294)"),
            ("image x inject=needed", "inject is \"needed\", not one of auto, always, never"),
            ("image sha256:ee65", "\"sha256:ee65\" is not sha256: and 64 digits of 0-9 and a-f"),
        ] {
            let error = format!("line 2 of the configuration: {error}");
            assert_eq!(Config::parse(&format!("# first\n{text}\n")).unwrap_err(), error);
        }
        assert_eq!(
            Config::parse("inject=all\ninject=all").unwrap_err(),
            "line 2 of the configuration: inject is set twice"
        );
        assert_eq!(
            Config::parse("image x:1\nimage docker.io/library/x:1").unwrap_err(),
            "line 2 of the configuration: image \"docker.io/library/x:1\" is set twice"
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
    fn patterns_of_images() {
        let counts = |pattern: &str, image| {
            let config = Config::parse(&format!("image {pattern}")).unwrap();
            config.line_of(&image).is_some()
        };
        let named = |name| Image { name, ..Image::default() };
        let by_digest = format!("docker.io/library/postgres@{}", POSTGRES.digests[0]);
        for pattern in [
            "docker.io/library/postgres:17",
            "docker.io/library/postgres:*",
            "docker.io/library/postgres",
            "docker.io/*",
            "*",
            "**",
            "*/postgres",
            "*/library/*:1*7",
            "postgres",
            "postgres:17",
            "library/p*g*s:17",
            POSTGRES.digests[0],
            POSTGRES.digests[1],
        ] {
            assert!(counts(pattern, POSTGRES), "{pattern}");
            // A runtime that tells nothing.
            assert!(!counts(pattern, Image::default()), "{pattern}");
        }
        for pattern in [
            "docker.io/library/postgres:1",
            "docker.io/library/postgre",
            "library/*postgres*17*7",
            "quay.io/postgres:17",
            "localhost/postgres:17",
            "docker.io:5000/library/postgres:17",
            "*:18",
            "*ee6521*",
            "postgres:17*17",
            &format!("sha256:{}", "0".repeat(64)),
        ] {
            assert!(!counts(pattern, POSTGRES), "{pattern}");
        }
        assert!(counts("postgres", named(&by_digest)) && !counts("postgres:*", named(&by_digest)));
        assert!(counts("host:5000/a", named("host:5000/a:1")) && !counts("host*", named("host:5000/a")));
        // Neither the length of a name nor the stars of a pattern cost more than their sum.
        let long = format!("{}/{}", "a\u{1b}\n".repeat(500_000), "b".repeat(500_000));
        assert!(!counts(&format!("*{}c", "a*".repeat(2_000)), named(&long)));
        assert!(counts(&format!("*{}b", "a*".repeat(2_000)), named(&long)));
    }

    #[test]
    fn an_image_is_a_reason_for_a_namespace() {
        let root = || user(0, 0, &[]);
        let claims = |config: &str, annotation| match decision(config, annotation, root()) {
            Decision::Inject(wanted) => {
                let mark = if wanted.refuse_collisions { "!" } else { "" };
                format!("{}/{}{mark}", wanted.claims.uids, wanted.claims.gids)
            }
            Decision::Leave(why) => why.to_owned(),
            Decision::Refuse(why) => why,
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
            ("inject=maybe", "inject is \"maybe\", not one of auto, always, never"),
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
