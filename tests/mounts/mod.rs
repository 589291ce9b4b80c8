//! Real mounts: what the kernel makes of a session. They need root, `/dev/fuse` and `fusermount3`.

mod support;

mod access;
mod containment;
mod life;
mod passthrough;
mod stale;
mod tree;
mod waiting;

#[test]
#[ignore = "the server of other tests, in a process of its own"]
fn server() {
    support::serve();
}
