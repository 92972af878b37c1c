//! The plugin's configuration, and what a pod's annotation or an `image` line says otherwise. Both are `key=value`.

use std::collections::HashMap;

use super::image::{self, ImageNames};
use crate::journal::Level;
use crate::map::cut;
use crate::map::kind::Both;
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

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginConfig {
    pub inject: Inject,
    /// What a pod may say otherwise: `collisions`, and besides its own claims `claim-uids` and `claim-gids`, which every
    /// namespace holds if it can, and which are never a reason to make one.
    pub defaults: Overrides,
    /// `skip-namespaces`: Kubernetes namespaces whose pods are left alone.
    pub skip_namespaces: Vec<String>,
    pub log_level: Option<Level>,
    /// `ping-group-range = node`.
    pub set_ping: bool,
    /// `image` lines: pattern, and what is so for containers of these images. The first that matches counts.
    pub images: Vec<(String, Overrides)>,
}

impl Default for PluginConfig {
    fn default() -> PluginConfig {
        // What images of the wild use most above 2047: nobody, nogroup, distroless' nonroot, pause.
        let claims = Both::new(|_| Ranges::new(vec![65532..=65535]));
        PluginConfig {
            inject: Inject::Needed,
            defaults: Overrides { claims, ..Overrides::default() },
            skip_namespaces: Vec::new(),
            log_level: None,
            set_ping: true,
            images: Vec::new(),
        }
    }
}

impl PluginConfig {
    /// Reads `key = value` and `image PATTERN …` lines; `#` starts a comment. An error names the line.
    pub fn parse(text: &str) -> Result<PluginConfig, String> {
        let mut config = PluginConfig::default();
        let mut seen = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            let read = if line.is_empty() { Ok(()) } else { config.read_line(line, &mut seen) };
            read.map_err(|why| format!("line {} of the configuration: {why}", index + 1))?;
        }
        Ok(config)
    }

    fn read_line<'a>(&mut self, line: &'a str, seen: &mut Vec<&'a str>) -> Result<(), String> {
        if let Some(("image", rest)) = line.split_once(char::is_whitespace) {
            return self.add_image(rest.trim_start());
        }
        let (key, value) = line.split_once('=').ok_or_else(|| format!("{:?} is not `key = value`", cut(line)))?;
        let (key, value) = (key.trim(), value.trim());
        if seen.contains(&key) {
            return Err(format!("{key} is set twice"));
        }
        seen.push(key);
        self.set(key, value)
    }

    /// Takes `PATTERN claim-uids=70000 …`.
    fn add_image(&mut self, line: &str) -> Result<(), String> {
        let (pattern, words) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let mut overrides = Overrides::default();
        overrides.read(words)?;
        let whole = image::in_full(pattern)?;
        if self.images.iter().any(|(other, _)| *other == whole) {
            return Err(format!("image {:?} is set twice", cut(pattern)));
        }
        self.images.push((whole, overrides));
        Ok(())
    }

    /// What the line that counts for an image says.
    pub fn of_image(&self, image: &ImageNames) -> Option<&Overrides> {
        self.images.iter().find(|(pattern, _)| image.matches(pattern)).map(|(_, overrides)| overrides)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "inject" => {
                self.inject = match choice(key, value, "needed, all, annotated")? {
                    0 => Inject::Needed,
                    1 => Inject::All,
                    _ => Inject::Annotated,
                };
            }
            "skip-namespaces" => {
                let names = value.split([',', ' ']).filter(|name| !name.is_empty());
                self.skip_namespaces = names.map(str::to_owned).collect();
            }
            "log-level" => self.log_level = Some(Level::parse(value)?),
            "ping-group-range" => self.set_ping = choice(key, value, "node, keep")? == 0,
            _ => self.defaults.set(key, value)?,
        }
        Ok(())
    }
}

/// Whether a container gets a namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PodInject {
    /// If it needs one.
    #[default]
    Auto,
    Always,
    Never,
}

/// What a pod's annotation or an `image` line says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    pub inject: PodInject,
    /// `claim-uids` and `claim-gids`: ids that the namespace is to hold.
    pub claims: Both<Ranges>,
    /// `collisions = refuse`: any collision refuses the container.
    pub refuse_collisions: Option<bool>,
}

impl Overrides {
    /// Takes over what `inject=always claim-uids=50000,10001-10005 collisions=refuse` names.
    pub fn read(&mut self, text: &str) -> Result<(), String> {
        text.split_ascii_whitespace().try_for_each(|word| {
            let (key, value) = word.split_once('=').ok_or_else(|| format!("{:?} is not key=value", cut(word)))?;
            self.set(key, value)
        })
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let ids = || Ranges::parse(value).map_err(|e| format!("{key}: {e}"));
        match key {
            "inject" => {
                self.inject = match choice(key, value, "auto, always, never")? {
                    0 => PodInject::Auto,
                    1 => PodInject::Always,
                    _ => PodInject::Never,
                };
            }
            "claim-uids" => self.claims.uids = ids()?,
            "claim-gids" => self.claims.gids = ids()?,
            "collisions" => self.refuse_collisions = Some(choice(key, value, "allow, refuse")? == 1),
            _ => return Err(format!("unknown key {:?}", cut(key))),
        }
        Ok(())
    }
}

/// Which of the names the value is.
fn choice(key: &str, value: &str, names: &str) -> Result<usize, String> {
    let found = names.split(", ").position(|name| name == value);
    found.ok_or_else(|| format!("{key} is {:?}, not one of {names}", cut(value)))
}

/// The annotation for one container, by NRI's scopes: the container's own, the pod's, the plain one.
pub fn annotation<'a>(annotations: &'a HashMap<String, String>, container: &str) -> Option<&'a str> {
    let scopes = [format!("{ANNOTATION}/container.{container}"), format!("{ANNOTATION}/pod"), ANNOTATION.into()];
    scopes.iter().find_map(|key| annotations.get(key)).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration() {
        assert_eq!(PluginConfig::parse("").unwrap(), PluginConfig::default());
        let text = "# all\n inject = all  # every one\nclaim-uids=10001-10003\r\nclaim-gids =\n\
                    skip-namespaces = kube-system, monitoring\ncollisions = refuse\nlog-level = debug\n\
                    ping-group-range = keep";
        let config = PluginConfig::parse(text).unwrap();
        assert_eq!(config.inject, Inject::All);
        assert_eq!(config.defaults.claims.uids.to_string(), "10001-10003");
        assert_eq!(config.defaults.claims.gids, Ranges::default());
        assert_eq!(config.skip_namespaces, ["kube-system", "monitoring"]);
        assert!(config.defaults.refuse_collisions == Some(true) && !config.set_ping);
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
            assert_eq!(PluginConfig::parse(&format!("# first\n{text}\n")).unwrap_err(), error);
        }
        assert_eq!(
            PluginConfig::parse("inject=all\ninject=all").unwrap_err(),
            "line 2 of the configuration: inject is set twice"
        );
        assert_eq!(
            PluginConfig::parse("image x:1\nimage docker.io/library/x:1").unwrap_err(),
            "line 2 of the configuration: image \"docker.io/library/x:1\" is set twice"
        );
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
        assert_eq!(annotation(&all, "app"), Some("claim-uids=3"));
        assert_eq!(annotation(&all, "other"), Some("claim-uids=2"));
        assert_eq!(annotation(&HashMap::from([keyed("", "x")]), "app"), Some("x"));
    }
}
