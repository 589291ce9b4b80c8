//! Who the user is for a registry, as docker, podman and their helpers keep it.
//!
//! The files are those of containers-auth.json(5), then Docker's. [`docker_credential`] reads them and asks the helpers.

use std::env;
use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use docker_credential::{CredentialRetrievalError, DockerCredential};

use super::{RegistryError, RemoteName};
use crate::progress::Progress;

/// How long a helper may take: it may ask the user.
const PATIENCE: Duration = Duration::from_secs(120);

/// By what Docker knows Docker Hub.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// A secret, never shown.
pub(super) enum Credential {
    /// Name and password.
    Password(String, String),
    /// What a token service gives access tokens for.
    IdentityToken(String),
}

/// The user's credential for an image, if there is one.
pub(super) fn find(name: &RemoteName, progress: &Progress) -> Result<Option<Credential>, RegistryError> {
    let (told, answer) = mpsc::channel();
    let (keys, host) = (keys(name), name.host().to_owned());
    let failed = |reason: String| RegistryError::Credentials { host: host.clone(), reason };
    // Nobody can tell a helper to hurry: the thread that waits for it is left behind.
    let asking = std::thread::Builder::new().name("credentials".into()).spawn(move || {
        let _ = told.send(look(&keys));
    });
    asking.map_err(|error| failed(error.to_string()))?;
    let begun = Instant::now();
    loop {
        progress.check()?;
        match answer.recv_timeout(Duration::from_millis(50)) {
            Ok(found) => return found.map_err(failed),
            Err(mpsc::RecvTimeoutError::Timeout) if begun.elapsed() < PATIENCE => {}
            Err(_) => return Err(failed("the credential helper does not answer".to_owned())),
        }
    }
}

/// What a credential may be stored under, the most particular first: Podman has them for parts of a registry too.
fn keys(name: &RemoteName) -> Vec<String> {
    let full = format!("{}/{}", name.host(), name.repository());
    let ends = full.rmatch_indices('/').map(|(at, _)| at);
    let mut keys: Vec<String> =
        std::iter::once(full.len()).chain(ends).map(|end| full[..end].to_owned()).collect();
    if name.host() == "docker.io" {
        keys.push(DOCKER_HUB_KEY.to_owned());
    }
    keys
}

fn look(keys: &[String]) -> Result<Option<Credential>, String> {
    for path in files() {
        let Ok(file) = File::open(&path) else { continue };
        let mut text = Vec::new();
        if std::io::Read::read_to_end(&mut std::io::Read::take(BufReader::new(file), 1 << 20), &mut text)
            .is_err()
        {
            continue;
        }
        // A helper knows whole registries alone.
        let registry = keys.iter().position(|key| !key.contains('/')).unwrap_or(0);
        for (place, key) in keys.iter().enumerate() {
            if place < registry && !has_key(&text, key) {
                continue;
            }
            match docker_credential::get_credential_from_reader(&text[..], key) {
                Ok(DockerCredential::UsernamePassword(name, _)) if name.is_empty() => {}
                Ok(DockerCredential::UsernamePassword(name, password)) => {
                    return Ok(Some(Credential::Password(name, password)));
                }
                Ok(DockerCredential::IdentityToken(token)) => {
                    return Ok(Some(Credential::IdentityToken(token)));
                }
                Err(CredentialRetrievalError::NoCredentialConfigured) => {}
                // The words that the helpers of docker have for it.
                Err(CredentialRetrievalError::HelperFailure { stdout, .. })
                    if stdout.contains("credentials not found") => {}
                // What a helper printed may be a secret.
                Err(CredentialRetrievalError::HelperFailure { helper, stderr, .. }) => {
                    return Err(format!("{helper} fails: {}", stderr.trim()));
                }
                Err(error) => return Err(format!("{}: {error}", path.display())),
            }
        }
    }
    Ok(None)
}

/// Whether a file of credentials has this very key.
fn has_key(text: &[u8], key: &str) -> bool {
    let file: serde_json::Value = serde_json::from_slice(text).unwrap_or_default();
    file.get("auths").and_then(|auths| auths.get(key)).is_some()
}

/// Where credentials are kept.
fn files() -> Vec<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(file) = set("REGISTRY_AUTH_FILE") {
        return vec![file];
    }
    let home = || set("HOME");
    let config = set("XDG_CONFIG_HOME").or_else(|| Some(home()?.join(".config")));
    let docker = set("DOCKER_CONFIG").or_else(|| Some(home()?.join(".docker")));
    [
        set("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json")),
        config.map(|dir| dir.join("containers/auth.json")),
        docker.map(|dir| dir.join("config.json")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_particular_key_comes_first() {
        let keys = |name: &str| keys(&name.parse().unwrap());
        assert_eq!(keys("h.x:5000/a/b"), ["h.x:5000/a/b", "h.x:5000/a", "h.x:5000"]);
        let hub = ["docker.io/library/a", "docker.io/library", "docker.io", DOCKER_HUB_KEY];
        assert_eq!(keys("a"), hub);
    }
}
