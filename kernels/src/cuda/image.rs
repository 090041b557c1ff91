//! The machine code of every stem, embedded by `build.rs`.

/// Drivers read images in words.
#[repr(C, align(16))]
struct Aligned<T: ?Sized>(T);

include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// The image of `stem`: a fatbin, or in a build without machine code a few words that only the software device accepts.
pub(super) fn find(stem: &str) -> Option<&'static [u8]> {
    IMAGES.iter().find(|(name, _)| *name == stem).map(|(_, image)| *image)
}

/// Whether this build can run on a real GPU.
pub(super) fn has_machine_code() -> bool {
    cfg!(feature = "cuda")
}
