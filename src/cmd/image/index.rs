//! Which images a store holds: OCI's index.json and its manifests, or the manifest.json of `docker save`.

use super::store::Store;
use crate::cmd::json::Value;
use crate::map::cut;

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
    /// `os/architecture/variant`, as far as told.
    pub platform: String,
    /// config.User.
    pub user: String,
    /// The layers, lowest first: names in the store, and sizes in bytes.
    pub layers: Vec<(String, u64)>,
}

/// The images of a store; at least one.
pub fn read(store: &Store) -> Result<Vec<Parts>, String> {
    let images = if let Some(index) = store.json("index.json")? {
        let mut search = Search { store, images: Vec::new(), seen: Vec::new(), missing: 0 };
        search.index(&index, "", 0)?;
        if search.images.is_empty() && search.missing > 0 {
            return Err(format!("the blobs of its {} manifests are missing", search.missing));
        }
        search.images
    } else if let Some(Value::List(entries)) = store.json("manifest.json")? {
        if entries.len() > MAX_IMAGES {
            return Err(format!("over {MAX_IMAGES} images"));
        }
        entries.iter().map(|entry| docker(store, entry)).collect::<Result<_, _>>()?
    } else {
        return Err(
            "no index.json and no manifest.json: neither an OCI layout nor a docker save of 1.10 or later".into()
        );
    };
    if images.is_empty() { Err("it holds no image".into()) } else { Ok(images) }
}

struct Search<'a> {
    store: &'a Store,
    images: Vec<Parts>,
    /// Names of the manifests that were seen: one with two tags is listed twice.
    seen: Vec<String>,
    missing: usize,
}

impl Search<'_> {
    /// Adds the images of an index, at this depth of indexes in indexes.
    fn index(&mut self, index: &Value, name: &str, depth: usize) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err(format!("indexes in indexes, over {MAX_DEPTH} deep"));
        }
        let Some(Value::List(manifests)) = index.get("manifests") else {
            return Err("an index without manifests".into());
        };
        for descriptor in manifests {
            let platform = platform(descriptor.get("platform"));
            let blob = blob_name(descriptor)?;
            if platform.starts_with("unknown/unknown") || self.seen.contains(&blob) {
                continue;
            }
            if self.seen.len() >= MAX_MANIFESTS {
                return Err(format!("over {MAX_MANIFESTS} manifests"));
            }
            let note = |key| descriptor.at(&["annotations", key]).and_then(Value::text);
            let own = note("io.containerd.image.name").or_else(|| note("org.opencontainers.image.ref.name"));
            let name = own.unwrap_or(name);
            self.seen.push(blob.clone());
            let Some(manifest) = self.store.json(&blob)? else {
                // An archive of one platform may have the index of all.
                if depth == 0 {
                    return Err(missing(&blob));
                }
                self.missing += 1;
                continue;
            };
            match manifest.get("manifests") {
                Some(_) => self.index(&manifest, name, depth + 1)?,
                None => self.manifest(&manifest, name, platform)?,
            }
        }
        Ok(())
    }

    /// Adds an image, if the manifest is one's: charts and signatures have manifests too.
    fn manifest(&mut self, manifest: &Value, name: &str, platform: String) -> Result<(), String> {
        let config = manifest.get("config").ok_or("a manifest without config")?;
        match config.get("mediaType").and_then(Value::text) {
            None
            | Some("application/vnd.oci.image.config.v1+json")
            | Some("application/vnd.docker.container.image.v1+json") => {}
            Some(_) => return Ok(()),
        }
        let mut names = Vec::new();
        for layer in manifest.get("layers").map_or(&[][..], Value::list) {
            names.push((blob_name(layer)?, layer.get("size").and_then(Value::number)));
        }
        self.images.push(image(self.store, name, platform, &blob_name(config)?, names)?);
        if self.images.len() > MAX_IMAGES {
            return Err(format!("over {MAX_IMAGES} images"));
        }
        Ok(())
    }
}

/// An element of manifest.json.
fn docker(store: &Store, entry: &Value) -> Result<Parts, String> {
    let Some((config, Value::List(layers))) = entry.get("Config").and_then(Value::text).zip(entry.get("Layers")) else {
        return Err("manifest.json: an image without Config or Layers".into());
    };
    let mut names = Vec::new();
    for layer in layers {
        names.push((layer.text().ok_or("manifest.json: a layer is not a name")?.to_owned(), None));
    }
    let tag = entry.get("RepoTags").map_or(&[][..], Value::list).first().and_then(Value::text);
    image(store, tag.unwrap_or_default(), String::new(), config, names)
}

/// Finds an image's parts.
fn image(
    store: &Store,
    name: &str,
    platform: String,
    config_name: &str,
    layer_names: Vec<(String, Option<u64>)>,
) -> Result<Parts, String> {
    if layer_names.len() > MAX_LAYERS {
        return Err(format!("an image of {} layers, over {MAX_LAYERS}", layer_names.len()));
    }
    let config = store.json(config_name)?.ok_or_else(|| missing(config_name))?;
    let user = config.at(&["config", "User"]).and_then(Value::text).unwrap_or_default().to_owned();
    let platform = if platform.is_empty() { self::platform(Some(&config)) } else { platform };
    let mut layers = Vec::new();
    for (name, told) in layer_names {
        let blob = store.find(&name)?.ok_or_else(|| missing(&name))?;
        if told.is_some_and(|told| told != blob.size) {
            let told = told.unwrap_or_default();
            return Err(format!("{:?} has {} bytes, and should have {told}: cut off?", cut(&name), blob.size));
        }
        layers.push((name, blob.size));
    }
    Ok(Parts { name: name.to_owned(), platform, user, layers })
}

fn missing(name: &str) -> String {
    format!("{:?} is missing", cut(name))
}

/// `linux/arm64/v8`; empty if not told.
fn platform(of: Option<&Value>) -> String {
    let parts = ["os", "architecture", "variant"];
    let told: Vec<&str> = parts.iter().filter_map(|key| of?.get(key)?.text()).filter(|p| !p.is_empty()).collect();
    told.join("/")
}

/// The name of a descriptor's blob. A digest becomes a path here, so it has to be one.
fn blob_name(descriptor: &Value) -> Result<String, String> {
    let digest = descriptor.get("digest").and_then(Value::text).ok_or("a descriptor without digest")?;
    let hex = digest
        .strip_prefix("sha256:")
        .filter(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)));
    match hex {
        Some(hex) => Ok(format!("blobs/sha256/{hex}")),
        None => Err(format!("{:?} is not a digest, sha256: and 64 hex digits", cut(digest))),
    }
}
