use super::super::*;
use super::*;

fn version(bytes: &[u8]) -> NewHeadVersion {
    NewHeadVersion { metadata: r#"{"accuracy":0.9}"#.to_owned(), bytes: bytes.to_vec() }
}

#[test]
fn versions_count_up_and_keep_their_bytes() {
    let (folder, store, _) = fresh();
    let trash = name("trash");
    assert_eq!(store.add_head_version(&trash, version(b"one")).unwrap(), 1);
    assert_eq!(store.add_head_version(&trash, version(b"two")).unwrap(), 2);
    assert_eq!(store.head(&trash).unwrap().active, None);
    store.activate_head_version(&trash, 2).unwrap();
    drop(store);
    let store = Store::open(folder.path()).unwrap();
    let (found, bytes) = store.head_version(&trash, 1).unwrap();
    assert_eq!((found.version, bytes.as_slice()), (1, b"one".as_slice()));
    assert_eq!(store.heads().unwrap().len(), 1);
    assert_eq!(store.head(&trash).unwrap().active, Some(2));
    assert_eq!(store.head_versions(&trash).unwrap().len(), 2);
}

#[test]
fn a_rollback_returns_to_what_was_active_before() {
    let (_folder, store, _) = fresh();
    let trash = name("trash");
    for bytes in [b"a", b"b", b"c"] {
        store.add_head_version(&trash, version(bytes)).unwrap();
    }
    for active in [1, 3, 3, 2] {
        store.activate_head_version(&trash, active).unwrap();
    }
    assert_eq!(store.head(&trash).unwrap().previous, Some(3));
    assert_eq!(store.roll_back_head(&trash).unwrap().active, Some(3));
    assert_eq!(store.roll_back_head(&trash).unwrap().active, Some(1));
    let refused = store.roll_back_head(&trash).unwrap_err();
    assert!(matches!(refused, StoreError::NothingToRollBack(_)), "{refused}");
    assert_eq!(store.head(&trash).unwrap().active, Some(1));
}

#[test]
fn pruning_keeps_the_active_version_and_the_way_back() {
    let (_folder, store, _) = fresh();
    let trash = name("trash");
    for number in 1..=6 {
        store.add_head_version(&trash, version(&[number])).unwrap();
    }
    store.activate_head_version(&trash, 1).unwrap();
    store.activate_head_version(&trash, 2).unwrap();
    assert_eq!(store.prune_head_versions(&trash, 4, &[4]).unwrap(), [3, 5]);
    assert_eq!(store.prune_head_versions(&trash, 3, &[]).unwrap(), [4]);
    let left: Vec<_> =
        store.head_versions(&trash).unwrap().into_iter().map(|v| v.version).collect();
    assert_eq!(left, [1, 2, 6]);
    assert_eq!(store.add_head_version(&trash, version(b"new")).unwrap(), 7);
}

#[test]
fn the_active_version_cannot_be_deleted_and_a_deleted_one_is_no_way_back() {
    let (folder, store, _) = fresh();
    let trash = name("trash");
    store.add_head_version(&trash, version(b"first")).unwrap();
    store.add_head_version(&trash, version(b"secret weights")).unwrap();
    for active in [1, 2, 1] {
        store.activate_head_version(&trash, active).unwrap();
    }
    let refused = store.delete_head_version(&trash, 1).unwrap_err();
    assert!(matches!(refused, StoreError::HeadVersionActive { version: 1, .. }), "{refused}");
    store.delete_head_version(&trash, 2).unwrap();
    assert!(!any_file_contains(folder.path(), b"secret weights"));
    assert_eq!(store.head(&trash).unwrap().previous, None);
    let missing = store.activate_head_version(&trash, 2).unwrap_err();
    assert!(matches!(missing, StoreError::UnknownHeadVersion { version: 2, .. }), "{missing}");
    store.delete_head(&trash).unwrap();
    assert!(matches!(store.head(&trash).unwrap_err(), StoreError::UnknownHead(_)));
}

#[test]
fn a_version_replaces_only_the_one_that_it_was_compared_with() {
    let (_folder, store, _) = fresh();
    let trash = name("trash");
    for bytes in [b"a", b"b", b"c"] {
        store.add_head_version(&trash, version(bytes)).unwrap();
    }
    assert!(store.replace_active_head_version(&trash, None, 1).unwrap());
    assert!(store.replace_active_head_version(&trash, Some(1), 2).unwrap());
    // Somebody goes back to the first meanwhile.
    store.activate_head_version(&trash, 1).unwrap();
    assert!(!store.replace_active_head_version(&trash, Some(2), 3).unwrap());
    assert_eq!(store.head(&trash).unwrap().active, Some(1));
}
