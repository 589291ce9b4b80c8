//! What docker's configuration says of a registry's user.

use docker_credential::{CredentialRetrievalError, DockerCredential, get_credential};

/// Docker Hub, as BuildKit calls it and as docker's configuration does.
const HUB: (&str, &str) = ("registry-1.docker.io", "https://index.docker.io/v1/");

/// The user and the password, or no user and an identity token. `None` where nothing is said of this registry.
pub(super) fn of(host: &str) -> Option<(String, String)> {
    let key = if host == HUB.0 { HUB.1 } else { host };
    match get_credential(key) {
        Ok(DockerCredential::UsernamePassword(user, password)) => Some((user, password)),
        Ok(DockerCredential::IdentityToken(token)) => Some((String::new(), token)),
        Err(
            CredentialRetrievalError::NoCredentialConfigured
            | CredentialRetrievalError::ConfigNotFound
            | CredentialRetrievalError::ConfigReadError,
        ) => None,
        Err(error) => {
            tracing::warn!("no credentials for {host}: {error}");
            None
        }
    }
}
