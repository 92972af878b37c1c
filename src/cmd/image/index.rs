//! Which images a store holds: OCI's index.json and its manifests, the manifest.json of `docker save`, or that of a `dir:`.

use super::store::{Store, quoted};
use crate::cmd::json::Value;

/// Indexes in indexes.
const MAX_DEPTH: usize = 4;
/// So many manifests are looked at.
const MAX_MANIFESTS: usize = 1024;
/// So many images are read.
const MAX_IMAGES: usize = 256;
/// More layers no runtime mounts.
const MAX_LAYERS: usize = 1024;

/// An image's parts.
pub struct Parts {
    /// A tag or reference; empty if it has none.
    pub name: String,
    /// What containerd calls it: its references, or else the digest of its configuration, if they are told.
    pub patterns: Vec<String>,
    /// The manifest or index that names it at the top.
    top: String,
    /// `os/architecture/variant`, as far as told.
    pub platform: String,
    /// config.User.
    pub user: String,
    /// The layers, lowest first: names in the store, and sizes in bytes.
    pub layers: Vec<(String, u64)>,
    /// How many layers are not here, and need not be.
    pub foreign: usize,
}

impl Parts {
    fn call(&mut self, pattern: &str) {
        self.patterns.extend(Some(pattern.to_owned()).filter(|pattern| !pattern.is_empty()));
    }
}

/// The images of a store; at least one.
pub fn read(store: &Store) -> Result<Vec<Parts>, String> {
    let mut search =
        Search { store, flat: false, images: Vec::new(), seen: Vec::new(), top: String::new(), missing: 0 };
    if let Some(index) = store.json("index.json")? {
        search.index(&index, ("", ""), 0)?;
    } else {
        match store.json("manifest.json")? {
            Some(Value::List(entries)) if entries.len() > MAX_IMAGES => {
                return Err(format!("over {MAX_IMAGES} images"));
            }
            Some(Value::List(entries)) => {
                search.images = entries.iter().map(|entry| docker(store, entry)).collect::<Result<_, _>>()?;
            }
            Some(manifest) => {
                search.flat = true;
                search.any(&manifest, ("", ""), String::new(), 0)?;
            }
            None => {
                let none =
                    "no index.json and no manifest.json: neither an OCI layout, nor a docker save of 1.10 or later";
                return Err(format!("{none}, nor a dir:"));
            }
        }
    }
    match search.images.is_empty() {
        true if search.missing > 0 => Err(format!("the blobs of its {} manifests are missing", search.missing)),
        true => Err("it holds no image".into()),
        false => Ok(search.images),
    }
}

/// What an image is called, and its whole reference; each may be empty.
type Named<'a> = (&'a str, &'a str);

struct Search<'a> {
    store: &'a Store,
    /// Blobs are not in folders, as in a `dir:`.
    flat: bool,
    images: Vec<Parts>,
    /// Names of the manifests that were seen: one with two tags is listed twice.
    seen: Vec<String>,
    /// The last of these that was at the top.
    top: String,
    missing: usize,
}

impl Search<'_> {
    /// Adds the images of an index, at this depth of indexes in indexes.
    fn index(&mut self, index: &Value, named: Named, depth: usize) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err(format!("indexes in indexes, over {MAX_DEPTH} deep"));
        }
        let Some(Value::List(manifests)) = index.get("manifests") else {
            return Err("an index without manifests".into());
        };
        for descriptor in manifests {
            let platform = platform(descriptor.get("platform"));
            let blob = self.blob_name(descriptor, ".manifest.json")?;
            let note = |key| descriptor.at(&["annotations", key]).and_then(Value::text);
            let docker = note("io.containerd.image.name");
            let own = docker.or_else(|| note("org.opencontainers.image.ref.name"));
            let own = own.map(|name| (name, reference(name, docker.is_some())));
            let (name, reference) = own.as_ref().map_or(named, |(name, reference)| (name, reference));
            if platform.starts_with("unknown/unknown") || self.seen.contains(&blob) {
                let twice = self.images.iter_mut().filter(|image| depth == 0 && image.top == blob);
                twice.for_each(|image| image.call(reference));
                continue;
            }
            if self.seen.len() >= MAX_MANIFESTS {
                return Err(format!("over {MAX_MANIFESTS} manifests"));
            }
            self.seen.push(blob.clone());
            if depth == 0 {
                self.top = blob.clone();
            }
            let Some(manifest) = self.store.json(&blob)? else {
                // An archive of one platform may have the index of all.
                if depth == 0 {
                    return Err(missing(&blob));
                }
                self.missing += 1;
                continue;
            };
            self.any(&manifest, (name, reference), platform, depth)?;
        }
        Ok(())
    }

    /// Adds the images of an index or manifest.
    fn any(&mut self, any: &Value, named: Named, platform: String, depth: usize) -> Result<(), String> {
        match any.get("manifests") {
            Some(_) => self.index(any, named, depth + 1),
            None => self.manifest(any, named, platform),
        }
    }

    /// Adds an image, if the manifest is one's: charts and signatures have manifests too.
    fn manifest(&mut self, manifest: &Value, named: Named, platform: String) -> Result<(), String> {
        let config = manifest.get("config").ok_or("a manifest without config")?;
        match config.get("mediaType").and_then(Value::text) {
            None
            | Some("application/vnd.oci.image.config.v1+json")
            | Some("application/vnd.docker.container.image.v1+json") => {}
            Some(_) => return Ok(()),
        }
        let mut layers = Vec::new();
        for layer in manifest.get("layers").map_or(&[][..], Value::list) {
            let kind = layer.get("mediaType").and_then(Value::text).unwrap_or_default();
            let foreign = kind.contains(".foreign.") || kind.contains(".nondistributable.");
            layers.push((self.blob_name(layer, "")?, layer.get("size").and_then(Value::number), foreign));
        }
        let (name, reference) = named;
        let mut image = image(self.store, name, &self.blob_name(config, "")?, layers, reference)?;
        image.top = self.top.clone();
        image.platform = Some(platform).filter(|told| !told.is_empty()).unwrap_or(image.platform);
        self.images.push(image);
        if self.images.len() > MAX_IMAGES {
            return Err(format!("over {MAX_IMAGES} images"));
        }
        Ok(())
    }

    /// The name of a descriptor's blob. A digest becomes a path here, so it has to be one.
    fn blob_name(&self, descriptor: &Value, flat_end: &str) -> Result<String, String> {
        let digest = descriptor.get("digest").and_then(Value::text).ok_or("a descriptor without digest")?;
        match digest.strip_prefix("sha256:").filter(|hex| is_sha256(hex)) {
            Some(hex) if self.flat => Ok(format!("{hex}{flat_end}")),
            Some(hex) => Ok(format!("blobs/sha256/{hex}")),
            None => Err(format!("{} is not a digest, sha256: and 64 hex digits", quoted(digest))),
        }
    }
}

fn is_sha256(hex: &str) -> bool {
    hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// The whole reference of a name, with the registry; empty if it is none. `docker` leaves out its own registry; others write
/// tags without a name.
fn reference(name: &str, docker: bool) -> String {
    let registry = name.split_once('/').is_some_and(|(first, _)| first.contains(['.', ':']) || first == "localhost");
    let default = match name.contains('/') {
        _ if registry => "",
        true => "docker.io/",
        false => "docker.io/library/",
    };
    let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/:@+".contains(&b));
    if plain && (registry || docker) { format!("{default}{name}") } else { String::new() }
}

/// An element of manifest.json.
fn docker(store: &Store, entry: &Value) -> Result<Parts, String> {
    let Some((config, Value::List(layers))) = entry.get("Config").and_then(Value::text).zip(entry.get("Layers")) else {
        return Err("manifest.json: an image without Config or Layers".into());
    };
    // Where some layers come from that need not be here.
    let foreign = entry.get("LayerSources").is_some();
    let mut names = Vec::new();
    for layer in layers {
        names.push((layer.text().ok_or("manifest.json: a layer is not a name")?.to_owned(), None, foreign));
    }
    let tags: Vec<&str> = entry.get("RepoTags").map_or(&[][..], Value::list).iter().filter_map(Value::text).collect();
    let name = tags.first().copied().unwrap_or_default();
    let mut image = image(store, name, config, names, &reference(name, true))?;
    tags.iter().skip(1).for_each(|tag| image.call(&reference(tag, true)));
    Ok(image)
}

/// Finds an image's parts: of the layers the names, the sizes as far as told, and whether they may be missing.
fn image(
    store: &Store,
    name: &str,
    config_name: &str,
    layer_names: Vec<(String, Option<u64>, bool)>,
    reference: &str,
) -> Result<Parts, String> {
    if layer_names.len() > MAX_LAYERS {
        return Err(format!("an image of {} layers, over {MAX_LAYERS}", layer_names.len()));
    }
    let config = store.json(config_name)?.ok_or_else(|| missing(config_name))?;
    let user = config.at(&["config", "User"]).and_then(Value::text).unwrap_or_default().to_owned();
    let (mut layers, mut foreign) = (Vec::new(), 0);
    for (name, told, may_be_missing) in layer_names {
        match store.find(&name)? {
            None if may_be_missing => foreign += 1,
            None => return Err(missing(&name)),
            Some(blob) => match told.filter(|told| *told != blob.size) {
                Some(told) => {
                    return Err(format!("{} has {} bytes, and should have {told}: cut off?", quoted(&name), blob.size));
                }
                None => layers.push((name, blob.size)),
            },
        }
    }
    let platform = platform(Some(&config));
    let (name, top) = (name.to_owned(), String::new());
    let mut parts = Parts { name, patterns: Vec::new(), top, platform, user, layers, foreign };
    parts.call(reference);
    let hex = config_name.strip_suffix(".json").unwrap_or(config_name).rsplit(['/', ':']).next();
    if let Some(hex) = hex.filter(|hex| parts.patterns.is_empty() && is_sha256(hex)) {
        parts.call(&format!("sha256:{hex}"));
    }
    Ok(parts)
}

fn missing(name: &str) -> String {
    format!("{} is missing", quoted(name))
}

/// `linux/arm64/v8`; empty if not told.
fn platform(of: Option<&Value>) -> String {
    let parts = ["os", "architecture", "variant"];
    let told: Vec<&str> = parts.iter().filter_map(|key| of?.get(key)?.text()).filter(|p| !p.is_empty()).collect();
    told.join("/")
}
