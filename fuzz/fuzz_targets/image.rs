//! An archive of an image, by both ways in. A wrong digest is put right, so that what is behind it is reached.
#![no_main]

use std::fs;
use std::io;
use std::sync::LazyLock;

use imagefs::compress::Limits;
use imagefs::image::Digest;
use imagefs::oci::{self, Layer, OciError, OciImage, OpenOptions};
use imagefs_fuzz::{mutate_tar, repair_tar};
use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use tempfile::TempDir;

/// Digests that are put right in one archive.
const REPAIRS: usize = 12;
const LIMITS: Limits = Limits { max_unpacked: 4 << 20, max_ratio: 100, ratio_free: 1 << 20 };

/// In memory where there is such a place: every input is written to a file.
static SPOOL: LazyLock<TempDir> = LazyLock::new(|| {
    let memory = TempDir::new_in("/dev/shm");
    memory.or_else(|_| TempDir::new()).expect("a temporary directory")
});

fuzz_target!(|bytes: &[u8]| {
    let options = OpenOptions { limits: LIMITS, ..OpenOptions::new(SPOOL.path()) };
    let path = SPOOL.path().join("archive");
    let mut bytes = bytes.to_vec();
    for _ in 0..REPAIRS {
        fs::write(&path, &bytes).expect("room for the archive");
        let opened = oci::open(&path, &options);
        let streamed = oci::open_stream(&bytes[..], &path, &options);
        let wrong = [opened, streamed].into_iter().find_map(|image| match image {
            Ok(image) => image.layers.iter().find_map(|layer| wrong_layer(&image, layer)),
            Err(error) => wrong_digest(&error),
        });
        match wrong {
            Some((expected, found)) if replace(&mut bytes, expected, found) => repair_tar(&mut bytes),
            _ => break,
        }
    }
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mutate_tar(data, size, max_size, seed)
});

/// Reads a layer to its end, and says in what its digest is wrong.
fn wrong_layer(image: &OciImage, layer: &Layer) -> Option<(Digest, Digest)> {
    let mut stream = match image.layer(layer) {
        Ok(stream) => stream,
        Err(error) => return wrong_digest(&error),
    };
    let error = io::copy(&mut stream, &mut io::sink()).err()?;
    wrong_digest(OciError::of(&error).expect("it is said what is wrong with a layer"))
}

fn wrong_digest(error: &OciError) -> Option<(Digest, Digest)> {
    match error {
        OciError::WrongDigest { expected, found, .. } | OciError::WrongDiffId { expected, found, .. } => {
            Some((*expected, *found))
        }
        _ => None,
    }
}

/// Writes one digest for another, wherever it stands. Says whether it stood anywhere.
fn replace(bytes: &mut [u8], expected: Digest, found: Digest) -> bool {
    let (expected, found) = (expected.hex().into_bytes(), found.hex().into_bytes());
    let mut replaced = false;
    let mut at = 0;
    while let Some(place) = bytes[at..].windows(expected.len()).position(|here| here == expected) {
        at += place;
        bytes[at..at + found.len()].copy_from_slice(&found);
        replaced = true;
    }
    replaced
}
