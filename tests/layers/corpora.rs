//! Images that other projects test with: see [`crate::corpora`].

use std::path::Path;

use super::sources::Place;

#[test]
fn images_by_other_writers_are_what_umoci_unpacks() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpora/images");
    for (name, transport) in [
        ("test-docker-image.tar", "docker-archive"),
        ("test-kaniko-image.tar", "docker-archive"),
        ("test-oci-gzip-image.tar", "oci-archive"),
        ("test-oci-zstd-image.tar", "oci-archive"),
        ("test-oci-uncompressed-image.tar", "oci-archive"),
        ("test-oci-estargz-image.tar", "oci-archive"),
    ] {
        let place = Place::new();
        let path = corpora.join(name);
        let path = path.to_str().unwrap();
        // umoci 0.4 knows gzip alone.
        place.shell(&format!("skopeo --dest-compress-format gzip {transport}:{path} oci:l:a"));
        place.unpacked("a").assert_same(&place.manifest(path));
    }
}
