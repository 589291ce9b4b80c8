//! Containers of a build: our helper, with mounts of the build beside it.

use std::time::Duration;

use bollard_buildkit_proto::moby::buildkit::v1::frontend::{NewContainerRequest, ReleaseContainerRequest};
use bollard_buildkit_proto::pb::{Mount, NetMode};

use super::drive::{Build, uuid};
use super::exec::Stdin;
use super::{BuildError, MountSource, llb};

/// How long it may take to put the helper there, and to make a container.
const PATIENCE: Duration = Duration::from_secs(120);

/// Makes a container with these mounts, and gives its id.
///
/// All are read-only: what is mounted otherwise stays in the daemon for good.
pub(super) fn make(build: &Build, mounts: &[MountSource]) -> Result<String, BuildError> {
    let root = build.helper_root(mounts.len())?;
    let root = Mount { dest: "/".into(), result_id: root, readonly: true, output: -1, ..Mount::default() };
    let beside = mounts.iter().enumerate().map(|(index, mount)| mount.to_mount(llb::mount_point(index)));
    // The daemon's runtime has one room for all containers, and takes letters and digits only.
    let id = uuid()?.replace('-', "");
    let request = NewContainerRequest {
        container_id: id.clone(),
        mounts: std::iter::once(root).chain(beside).collect(),
        network: NetMode::None.into(),
        platform: Some(build.platform()),
        ..NewContainerRequest::default()
    };
    let doing = "make a container in the build";
    let mut bridge = build.bridge.clone();
    build.worker.wait(doing, PATIENCE, async move {
        bridge.new_container(request).await.map_err(|status| BuildError::of(doing, status))
    })?;
    Ok(id)
}

/// Lets go of a container, and does not wait for that: it goes with the build in any case. `stdin` is that of its process: as long as
/// it is open, a server may wait for it, though the process was killed.
pub(super) fn release(build: &Build, id: &str, stdin: Option<Stdin>) {
    let mut bridge = build.bridge.clone();
    let request = ReleaseContainerRequest { container_id: id.to_owned() };
    build.worker.handle().spawn(async move {
        if let Some(stdin) = stdin {
            stdin.close().await;
        }
        if let Err(status) = bridge.release_container(request).await {
            tracing::debug!("release a container of the build: {}", status.message());
        }
    });
}
