//! Row keys, packed so that rows which are read together lie together.

/// Number of a dataset within the store, 1 to 65,535.
pub(super) type DatasetNumber = u16;

/// Number of a backbone within the store, 1 to 32,767.
pub(super) type BackboneNumber = u16;

/// The row key of a sample: its dataset's number in bits 32 to 47 above a sequence number. Keys of
/// one dataset grow in the order of arrival; a client sees them only as page tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SampleKey(pub(super) i64);

impl SampleKey {
    pub(super) fn new(dataset: DatasetNumber, sequence: u32) -> Self {
        Self(i64::from(dataset) << 32 | i64::from(sequence))
    }

    /// The key just below the first sample of a dataset.
    pub(super) fn before(dataset: DatasetNumber) -> Self {
        Self((i64::from(dataset) << 32) - 1)
    }

    /// The largest key that a sample of the dataset can have.
    pub(super) fn last(dataset: DatasetNumber) -> Self {
        Self::new(dataset, u32::MAX)
    }

    pub(super) fn dataset(self) -> DatasetNumber {
        (self.0 >> 32) as u16
    }

    pub(super) fn sequence(self) -> u32 {
        self.0 as u32
    }

    /// What is added to the keys of samples to make those of their embeddings.
    pub(super) fn embedding_offset(backbone: BackboneNumber) -> i64 {
        i64::from(backbone) << 48
    }

    pub(super) fn embedding(self, backbone: BackboneNumber) -> i64 {
        self.0 | Self::embedding_offset(backbone)
    }

    /// The key as a page token.
    pub fn to_token(self) -> u64 {
        self.0 as u64
    }

    /// The key that a page token stands for; one of another dataset merely finds nothing.
    pub fn from_token(token: u64) -> Self {
        Self((token & 0x0000_ffff_ffff_ffff) as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_key_gives_back_its_parts(dataset in 1..=u16::MAX, sequence: u32, backbone in 1..=32767_u16) {
            let key = SampleKey::new(dataset, sequence);
            prop_assert_eq!((key.dataset(), key.sequence()), (dataset, sequence));
            prop_assert!(key.embedding(backbone) > 0);
            prop_assert_eq!(SampleKey::from_token(key.to_token()), key);
            prop_assert!(SampleKey::before(dataset) < key && key <= SampleKey::last(dataset));
        }
    }
}
