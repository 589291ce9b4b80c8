//! Containers that exist only to be read: made, never started, and removed whatever happens.
//!
//! Must not import anything of the crate outside `docker` but its words.

use std::collections::HashMap;
use std::fs;

use bollard::models::{
    ContainerCreateBody, HostConfig, Mount, MountImageOptions, MountType, MountVolumeOptions,
};
use bollard::query_parameters::{CreateContainerOptions, RemoveContainerOptions};
use serde::Deserialize;

use super::client::encode;
use super::image::ImageHandle;
use super::{
    ByteStream, Container, ContainerId, Daemon, DockerError, Engine, Image, MountKind, MountPoint, PathStat,
};
use crate::cleanup::CleanupGuard;
use crate::owner::Owner;

/// What every name of ours begins with.
const NAME_PREFIX: &str = "imagefs-";

/// The label that carries an [`Owner`].
pub(super) const LABEL: &str = "imagefs.owner";

/// A container that was never started, removed with its anonymous volumes when this is dropped, or by [`cleanup::exit`].
///
/// If this process is killed before, [`Daemon::sweep_orphans`] of a later one removes it.
///
/// [`cleanup::exit`]: crate::cleanup::exit
pub struct Throwaway {
    daemon: Daemon,
    id: ContainerId,
    held: CleanupGuard,
}

/// One element of the answer to `GET /containers/json`, as far as it is of use.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    id: ContainerId,
    names: Option<Vec<String>>,
    labels: Option<HashMap<String, String>>,
}

impl Daemon {
    /// Makes a container of an image, to read the image's files through it. One request.
    ///
    /// Where the image declares a volume, the container shows what the image itself has there, and no volume is made.
    ///
    /// # Errors
    /// [`DockerError::ImageNotFound`] if the image was removed meanwhile; or the daemon refuses.
    pub fn throwaway(&self, image: &Image) -> Result<Throwaway, DockerError> {
        // A volume would take a copy of all that the image has there, and hide it (Podman) behind an empty one.
        // A tmpfs in its place is mounted when a container starts, and so never.
        let shadows = image.config.volumes.iter().filter_map(|target| shadow(target));
        self.create(&image.handle, HostConfig { mounts: Some(shadows.collect()), ..HostConfig::default() })
    }

    /// Makes a container that has one mount of another one, read-only, and nothing else of what that has mounted; tells where.
    /// `None` where the daemon cannot be told what it is. Up to two requests.
    ///
    /// It is not where the other has it: Docker 28 shows nothing of a container that has a mount by way of an absolute link.
    /// It is told to the daemon as it stands in the mount table, so that nothing is made in place of a source that is gone, and
    /// no other mount is put on top. `VolumesFrom` would do neither, and is refused by Docker if any mount is a tmpfs that was
    /// asked for by `--mount`.
    ///
    /// # Errors
    /// [`DockerError::ContainerNotFound`] if the other is gone, since its volume may be gone too, and would be made
    /// anew; [`DockerError::ImageNotFound`] if its image was removed; or the daemon refuses: a bind whose source is gone.
    pub fn throwaway_with_mount(
        &self,
        container: &Container,
        mount: &MountPoint,
    ) -> Result<Option<(Throwaway, String)>, DockerError> {
        // Under its last name: a single file stands in its archive by that.
        let last = mount.destination.rsplit('/').find(|name| !matches!(*name, "" | "." | ".."));
        let target = format!("/.imagefs/{}", last.unwrap_or("mount"));
        let Some(asked) = self.as_asked_for(mount, &target) else { return Ok(None) };
        if mount.kind == MountKind::Volume {
            self.container_by_id(&container.id)?;
        }
        // Where the image declares volumes, the other has mounts.
        let mounts = container.mounts.iter().filter_map(|other| shadow(&other.destination)).chain([asked]);
        let host = HostConfig { mounts: Some(mounts.collect()), ..HostConfig::default() };
        let made = self.create(&container.image_handle(), host)?;
        Ok(Some((made, target)))
    }

    /// Makes a container of the image of another one, without anything of what that has mounted. One request.
    ///
    /// # Errors
    /// [`DockerError::ImageNotFound`] if its image was removed; or the daemon refuses.
    pub fn throwaway_without_mounts(&self, container: &Container) -> Result<Throwaway, DockerError> {
        let shadows = container.mounts.iter().filter_map(|mount| shadow(&mount.destination));
        let host = HostConfig { mounts: Some(shadows.collect()), ..HostConfig::default() };
        self.create(&container.image_handle(), host)
    }

    /// A mount as it is asked for when a container is made, if that brings the same and makes nothing.
    fn as_asked_for(&self, mount: &MountPoint, target: &str) -> Option<Mount> {
        let subpath = || mount.subpath.clone();
        let (typ, source) = match (&mount.kind, self.engine) {
            (MountKind::Volume, _) => (MountType::VOLUME, mount.name.clone()?),
            (MountKind::Bind, Engine::Docker) => (MountType::BIND, mount.source.clone()),
            (MountKind::Image, Engine::Docker) => (MountType::IMAGE, mount.image().to_owned()),
            // Podman makes the source of a bind that is asked for so where it is gone.
            _ => return None,
        };
        let image_options = MountImageOptions { subpath: subpath() };
        let volume_options = MountVolumeOptions {
            no_copy: Some(true),
            subpath: subpath().filter(|_| self.engine == Engine::Docker),
            ..MountVolumeOptions::default()
        };
        Some(Mount {
            target: Some(target.to_owned()),
            source: Some(source),
            typ: Some(typ),
            read_only: Some(true),
            image_options: (typ == MountType::IMAGE).then_some(image_options),
            volume_options: (typ == MountType::VOLUME).then_some(volume_options),
            ..Mount::default()
        })
    }

    /// Makes a container that has a volume, read-only, of whichever image is there, and nothing else. Three requests. Returns
    /// where in it the volume is.
    ///
    /// # Errors
    /// [`DockerError::NoImages`] if there is no image to make it of; or the daemon refuses.
    pub fn throwaway_for_volume(&self, name: &str) -> Result<(Throwaway, &'static str), DockerError> {
        const DESTINATION: &str = "/imagefs-volume";
        let image = self.images()?.into_iter().next().ok_or(DockerError::NoImages)?;
        // A volume that is gone would be made anew.
        self.volume(name)?;
        let binds = Some(vec![format!("{name}:{DESTINATION}:ro,nocopy")]);
        let image = ImageHandle { id: image.id, platform: None };
        let made = self.create(&image, HostConfig { binds, ..HostConfig::default() })?;
        Ok((made, DESTINATION))
    }

    /// Makes a container that has the volumes and binds of another one, read-only, to read them through it while
    /// the other may be running. One request.
    ///
    /// # Errors
    /// [`DockerError::ImageNotFound`] if the other's image was removed; or the daemon refuses.
    pub fn throwaway_with_volumes_of(&self, container: &Container) -> Result<Throwaway, DockerError> {
        let volumes_from = Some(vec![format!("{}:ro", container.id)]);
        self.create(&container.image_handle(), HostConfig { volumes_from, ..HostConfig::default() })
    }

    /// Removes the throwaway containers of processes that are gone without having removed them; returns how many.
    ///
    /// Those of a process that lives stay, and so do those of which that cannot be told from here: made on another
    /// machine, or in another pid namespace. One request, and one for each container removed.
    ///
    /// # Errors
    /// The daemon does not answer the listing. A container that cannot be removed is logged and left.
    pub fn sweep_orphans(&self) -> Result<usize, DockerError> {
        let Ok(here) = Owner::this_process() else { return Ok(0) };
        let filters = format!(r#"{{"label":["{}"],"status":["created"]}}"#, LABEL);
        let target = format!("/containers/json?all=true&filters={}", encode(filters.as_bytes()));
        let doing = "list leftover containers";
        let listed: Vec<Listed> = self.client.get_json(&target, doing, self.client.patience.answer)?;
        let orphans = listed.into_iter().filter(|container| container.is_orphan(&here));
        Ok(orphans
            .filter(|container| match self.remove_container(container.id.as_str()) {
                Ok(()) => true,
                Err(error) => {
                    tracing::warn!(container = %container.id, %error, "cannot remove a leftover container");
                    false
                }
            })
            .count())
    }

    fn create(&self, image: &ImageHandle, host: HostConfig) -> Result<Throwaway, DockerError> {
        let made = CleanupGuard::make(|let_go| {
            let id = self.create_container(image, host)?;
            let (daemon, of_it) = (self.clone(), id.clone());
            *let_go = Some(Box::new(move || {
                if let Err(error) = daemon.remove_container(of_it.as_str()) {
                    tracing::warn!(container = %of_it, %error, "a container is left");
                }
            }));
            Ok(id)
        });
        made.map(|(id, held)| Throwaway { daemon: self.clone(), id, held })
    }

    fn create_container(&self, image: &ImageHandle, host: HostConfig) -> Result<ContainerId, DockerError> {
        let doing = format!("make a container of the image {}", image.id);
        let name = unique_name()?;
        let owner = Owner::this_process().map_or_else(|_| "unknown".into(), |owner| owner.to_label());
        let body = ContainerCreateBody {
            image: Some(image.id.to_string()),
            // Never run, but wanted: an image may have no command, and then no container is made without.
            cmd: Some(vec!["/".into()]),
            labels: Some(HashMap::from([(LABEL.into(), owner)])),
            network_disabled: Some(true),
            host_config: Some(HostConfig { network_mode: Some("none".into()), ..host }),
            ..ContainerCreateBody::default()
        };
        let platform = image.platform.as_ref().map(ToString::to_string).unwrap_or_default();
        let options = CreateContainerOptions { name: Some(name.clone()), platform };
        let answer = self.client.call(&doing, self.client.docker().create_container(Some(options), body));
        let created = answer
            .and_then(|answer| answer.id.parse().map_err(|reason| DockerError::BadAnswer { doing, reason }));
        match created {
            Ok(id) => Ok(id),
            // A mount that cannot be had is answered in the same way.
            Err(DockerError::Refused { status: 404, message, .. })
                if message.to_ascii_lowercase().contains("no such image") =>
            {
                Err(self.image_not_found(image.id.to_string()))
            }
            Err(error @ (DockerError::Refused { .. } | DockerError::Unreachable { .. })) => Err(error),
            Err(error) => {
                // No answer came, or none that is understood: the container may be there all the same.
                if let Err(again) = self.remove_container(&name) {
                    tracing::warn!(container = name, error = %again, "a container may be left");
                }
                Err(error)
            }
        }
    }

    /// Removes a container, and the volumes that have no name; that it is gone already is fine.
    fn remove_container(&self, name: &str) -> Result<(), DockerError> {
        let doing = format!("remove the container {name}");
        let options = RemoveContainerOptions { v: true, force: true, link: false };
        match self.client.call_at_last(&doing, self.client.docker().remove_container(name, Some(options))) {
            // 409: somebody else is removing it.
            Err(DockerError::Refused { status: 404 | 409, .. }) => Ok(()),
            answer => answer,
        }
    }
}

impl Throwaway {
    /// The container's id.
    pub fn id(&self) -> &ContainerId {
        &self.id
    }

    /// A tar of the whole root filesystem. See [`Daemon::export`].
    ///
    /// # Errors
    /// As there.
    pub fn export(&self) -> Result<ByteStream, DockerError> {
        self.daemon.export(&self.id)
    }

    /// What stands at `path`. See [`Daemon::stat_path`].
    ///
    /// # Errors
    /// As there.
    pub fn stat_path(&self, path: &[u8]) -> Result<Option<PathStat>, DockerError> {
        self.daemon.stat_path(&self.id, path)
    }

    /// A tar of what stands at `path`. See [`Daemon::archive`].
    ///
    /// # Errors
    /// As there.
    pub fn archive(&self, path: &[u8]) -> Result<Option<ByteStream>, DockerError> {
        self.daemon.archive(&self.id, path)
    }

    /// The same, told of before it is waited for. See [`Daemon::archive_with`].
    ///
    /// # Errors
    /// As there.
    pub fn archive_with(
        &self,
        path: &[u8],
        begun: impl FnOnce(&ByteStream),
    ) -> Result<Option<ByteStream>, DockerError> {
        self.daemon.archive_with(&self.id, path, begun)
    }

    /// Removes the container now, and says so if that fails.
    ///
    /// # Errors
    /// The daemon does not answer, or refuses; the next [`Daemon::sweep_orphans`] after this process may succeed.
    pub fn remove(self) -> Result<(), DockerError> {
        self.held.change(|let_go| {
            *let_go = None;
            self.daemon.remove_container(self.id.as_str())
        })
    }
}

impl Listed {
    /// Whether this is ours beyond doubt, and nobody's any more. A label alone is no proof: images bring theirs.
    fn is_orphan(&self, here: &Owner) -> bool {
        let ours = |name: &String| name.strip_prefix('/').unwrap_or(name).starts_with(NAME_PREFIX);
        let owner = self.labels.as_ref().and_then(|labels| Owner::from_label(labels.get(LABEL)?));
        self.names.iter().flatten().any(ours) && owner.is_some_and(|owner| owner.is_gone(here))
    }
}

fn unique_name() -> Result<String, DockerError> {
    // The kernel's source of random UUIDs, random(4).
    let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid").map_err(DockerError::NoName)?;
    Ok(format!("{NAME_PREFIX}{}", uuid.trim()))
}

/// What keeps a volume from being made at `target`, if it can be a mount's target.
fn shadow(target: &str) -> Option<Mount> {
    is_plain(target).then(|| Mount {
        target: Some(target.to_owned()),
        typ: Some(MountType::TMPFS),
        ..Mount::default()
    })
}

/// Whether the daemons take `path` for the target of a mount, and mean the same by it.
fn is_plain(path: &str) -> bool {
    path.strip_prefix('/')
        .is_some_and(|rest| !rest.is_empty() && !rest.split('/').any(|part| matches!(part, "" | "." | "..")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(name: &str, owner: &str) -> Listed {
        let json = serde_json::json!({
            "Id": "ab".repeat(32), "Names": [name], "Labels": { LABEL: owner, "other": "x" },
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn only_a_container_of_ours_whose_owner_is_gone_is_an_orphan() {
        let here = Owner::this_process().unwrap();
        let gone = here.to_label().replace(r#""started":"#, r#""started":1"#);
        assert!(listed("/imagefs-x", &gone).is_orphan(&here));
        assert!(!listed("/web", &gone).is_orphan(&here), "an image that brings our label");
        assert!(!listed("/imagefs-x", &here.to_label()).is_orphan(&here), "a living owner");
        assert!(!listed("/imagefs-x", "unknown").is_orphan(&here));
        let unlabelled = r#"{"Id":"IDIDID","Names":null,"Labels":null}"#.replace("IDIDID", &"ab".repeat(32));
        assert!(!serde_json::from_str::<Listed>(&unlabelled).unwrap().is_orphan(&here));
    }

    #[test]
    fn only_a_clean_absolute_volume_is_shadowed() {
        assert!(is_plain("/data") && is_plain("/var/lib/x y"));
        for bad in ["/", "", "data", "/a/../b", "/a//b", "/a/", "/./a"] {
            assert!(!is_plain(bad), "{bad}");
        }
    }
}
