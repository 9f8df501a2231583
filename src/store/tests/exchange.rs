//! Export and import.

use super::super::*;
use super::*;

fn filled() -> (tempfile::TempDir, Store, Name) {
    let (folder, store, parts) = fresh();
    for number in 0..10 {
        let mut sent = NewSample { note: format!("note {number}"), weight: 0.5, ..sample(number) };
        match number {
            9 => sent.labels = vec!["../../etc".to_owned(), "nut".to_owned()],
            8 => {
                sent.origin = Origin::Capture;
                sent.prediction = Some(r#"{"label":"nut"}"#.to_owned());
            }
            _ => {}
        }
        store.add_sample_and_wait(&parts, sent).unwrap();
    }
    (folder, store, parts)
}

fn import_all(path: &std::path::Path) -> (tempfile::TempDir, Store, Name) {
    let (folder, store, parts) = fresh();
    for sample in Import::open(path).unwrap() {
        store.add_sample_and_wait(&parts, sample.unwrap()).unwrap();
    }
    (folder, store, parts)
}

fn assert_equal(a: &Store, b: &Store, parts: &Name) {
    let list = |store: &Store| store.samples(parts, &Filter::default(), None, 100).unwrap().samples;
    assert_eq!(list(a), list(b));
    assert_eq!(a.snapshot(parts).unwrap(), b.snapshot(parts).unwrap());
    let values = |store: &Store| {
        let blocks = store.embeddings(parts, backbone(), None, 100).unwrap();
        blocks.flat_map(|block| block.unwrap().values).collect::<Vec<_>>()
    };
    assert_eq!(values(a), values(b));
}

#[test]
fn what_is_exported_to_a_folder_imports_as_the_same_dataset() {
    let (_folder, store, parts) = filled();
    let target = tempfile::tempdir().unwrap();
    let path = target.path().join("export");
    let report = store.export(&parts, ExportTarget::Folder(path.clone())).unwrap();
    let expected =
        ExportReport { samples: 10, images: 10, embeddings: 10, ..ExportReport::default() };
    assert_eq!(report, expected);
    let (_other_folder, other, _) = import_all(&path);
    assert_equal(&store, &other, &parts);
    // Nothing was written beside the target, whatever the label.
    assert_eq!(std::fs::read_dir(target.path()).unwrap().count(), 1);
    assert!(store.export(&parts, ExportTarget::Folder(path)).is_err(), "not empty");
}

fn assert_survives_a_tar(store: &Store, parts: &Name) {
    let target = tempfile::tempdir().unwrap();
    let mut archive = Vec::new();
    store.export(parts, ExportTarget::Tar(&mut archive)).unwrap();
    let path = target.path().join("parts.tar");
    crate::base::atomic::write(&path, &archive).unwrap();
    let (_other_folder, other, _) = import_all(&path);
    assert_equal(store, &other, parts);
}

#[test]
fn what_is_exported_to_a_tar_imports_as_the_same_dataset() {
    let (_folder, store, parts) = filled();
    assert_survives_a_tar(&store, &parts);
}

#[test]
fn the_images_of_an_export_are_a_folder_per_class() {
    let (_folder, store, parts) = filled();
    let target = tempfile::tempdir().unwrap();
    let path = target.path().join("export");
    store.export(&parts, ExportTarget::Folder(path.clone())).unwrap();
    let mut classes: Vec<_> = std::fs::read_dir(path.join("images"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    classes.sort();
    assert_eq!(classes, ["%2E.%2F..%2Fetc", "bolt", "nut"]);
}

#[test]
fn a_plain_folder_per_class_can_be_imported() {
    let folder = tempfile::tempdir().unwrap();
    for (class, file) in [("nut", "a.jpg"), ("nut", "b.PNG"), ("bolt", "c.webp"), ("bolt", "x.txt")]
    {
        std::fs::create_dir_all(folder.path().join(class)).unwrap();
        let path = folder.path().join(class).join(file);
        crate::base::atomic::write(&path, file.as_bytes()).unwrap();
    }
    let samples: Vec<_> = Import::open(folder.path()).unwrap().map(Result::unwrap).collect();
    let seen: Vec<_> = samples.iter().map(|s| (s.id.as_str(), s.labels[0].as_str())).collect();
    assert_eq!(seen, [("bolt/c.webp", "bolt"), ("nut/a.jpg", "nut"), ("nut/b.PNG", "nut")]);
    let empty = tempfile::tempdir().unwrap();
    assert!(Import::open(empty.path()).is_err());
}

#[test]
fn a_line_that_names_a_file_outside_the_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let line = r#"{"id":"x","labels":["a"],"file":"../../etc/passwd"}"#;
    crate::base::atomic::write(&folder.path().join("samples.jsonl"), line.as_bytes()).unwrap();
    let refused = Import::open(folder.path()).unwrap().next().unwrap().unwrap_err();
    assert!(refused.to_string().contains("leads out of the folder"), "{refused}");
}

#[test]
fn the_header_of_an_npy_file_is_aligned_as_numpy_wants_it() {
    for (rows, width) in [(1, 1), (100_000, 1280), (7, 65_536)] {
        let header = super::super::export::npy_header(rows, width);
        assert_eq!(header.len() % 64, 0);
        assert_eq!(header.last(), Some(&b'\n'));
    }
}

#[test]
fn labels_and_ids_longer_than_a_file_name_come_back_whole() {
    let (_folder, store, parts) = fresh();
    // 200 bytes, three times as many once each is written as %XX.
    let long = |end: &str| format!("{}{end}", "ü".repeat(99));
    for (number, end) in (0..).zip(["a", "b"]) {
        let sent = NewSample { id: long(end), labels: vec![long(end)], ..sample(number) };
        store.add_sample_and_wait(&parts, sent).unwrap();
    }
    let target = tempfile::tempdir().unwrap();
    let path = target.path().join("export");
    store.export(&parts, ExportTarget::Folder(path.clone())).unwrap();
    assert_eq!(std::fs::read_dir(path.join("images")).unwrap().count(), 2, "a folder a label");
    let (_other_folder, other, _) = import_all(&path);
    assert_equal(&store, &other, &parts);
    assert_survives_a_tar(&store, &parts);
}

#[test]
fn a_tar_with_a_folder_around_everything_can_be_imported() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("trash");
    for file in ["glass/a.jpg", "paper/b.jpg", ".hidden/c.jpg", "glass/._a.jpg"] {
        let path = root.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        crate::base::atomic::write(&path, file.as_bytes()).unwrap();
    }
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_dir_all("trash", &root).unwrap();
    let path = folder.path().join("t.tar");
    crate::base::atomic::write(&path, &builder.into_inner().unwrap()).unwrap();
    let ids = |path: &std::path::Path| -> Vec<String> {
        Import::open(path).unwrap().map(|sample| sample.unwrap().id).collect()
    };
    assert_eq!(ids(&path), ["glass/a.jpg", "paper/b.jpg"]);
    // An export with a folder around it, too.
    let (_folder, store, parts) = filled();
    let export = folder.path().join("around/export");
    store.export(&parts, ExportTarget::Folder(export)).unwrap();
    let (_other_folder, other, _) = import_all(&folder.path().join("around"));
    assert_equal(&store, &other, &parts);
}

#[test]
fn a_dataset_that_keeps_less_than_images_comes_back_with_its_settings_and_what_it_kept() {
    let target = tempfile::tempdir().unwrap();
    for keep in [Keep::Thumbnails, Keep::Embeddings] {
        let (_folder, store, parts) = fresh();
        let quota = Quota {
            max_samples: Some(3),
            max_bytes: Some(10_000),
            when_full: WhenFull::DropOldest,
        };
        let settings = DatasetSettings { keep, held_out_share: 0.5, quota, capture: None };
        store.update_dataset(&parts, settings.clone()).unwrap();
        let sent = |number| {
            let thumbnail = Some(format!("small {number}").into_bytes());
            NewSample { thumbnail, ..sample(number) }
        };
        add_all(&store, &parts, (0..3).map(sent));
        let path = target.path().join(format!("{keep:?}"));
        store.export(&parts, ExportTarget::Folder(path.clone())).unwrap();

        let folder = tempfile::tempdir().unwrap();
        let other = Store::open(folder.path()).unwrap();
        let import = Import::open(&path).unwrap();
        let (made, (sender, receipts)) = (import.settings().clone(), std::sync::mpsc::channel());
        for found in import {
            let sender = sender.clone();
            let done = move |receipt| sender.send(receipt).unwrap();
            other.add_sample_making_with(&parts, &made, found.unwrap(), done);
        }
        drop(sender);
        assert!(receipts.iter().all(|receipt| receipt.unwrap().outcome == Outcome::Added));
        assert_eq!(other.dataset(&parts).unwrap().settings, settings);
        assert_equal(&store, &other, &parts);
        for number in 0..3 {
            let of = |store: &Store| store.image(&parts, &sent(number).id).unwrap();
            assert_eq!(of(&other).is_some(), keep == Keep::Thumbnails);
            assert_eq!(of(&other), of(&store));
            // The client that sent it once sends the same image again.
            let again = other.add_sample_and_wait(&parts, sent(number)).unwrap();
            assert_eq!(again.outcome, Outcome::Duplicate, "{keep:?}");
        }
        // A dataset that keeps images has nothing better than the thumbnail.
        let (_images_folder, images, _) = import_all(&path);
        assert_equal(&store, &images, &parts);
        let kept = images.image(&parts, &sent(0).id).unwrap();
        assert_eq!(kept, store.image(&parts, &sent(0).id).unwrap());
    }
}

#[test]
fn settings_that_no_export_wrote_are_refused() {
    let (_folder, store, parts) = filled();
    let target = tempfile::tempdir().unwrap();
    let path = target.path().join("export");
    store.export(&parts, ExportTarget::Folder(path.clone())).unwrap();
    for bad in ["[", r#"{"keep":"everything"}"#, r#"{"held_out_share":7}"#, r#"{"max_bytes":-1}"#] {
        crate::base::atomic::write(&path.join("dataset.json"), bad.as_bytes()).unwrap();
        let refused = Import::open(&path).err().unwrap();
        assert!(matches!(refused, StoreError::Invalid { .. }), "{bad}: {refused}");
    }
    // An export of an older version has none.
    std::fs::remove_file(path.join("dataset.json")).unwrap();
    assert_eq!(*Import::open(&path).unwrap().settings(), DatasetSettings::default());
}

#[test]
fn a_picture_in_a_folder_within_a_class_belongs_to_that_class() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["nut/a.jpg", "nut/shift 2/late/b.jpg", "bolt/new/c.jpg", "bolt/.old/d.jpg"] {
        let path = folder.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        crate::base::atomic::write(&path, file.as_bytes()).unwrap();
    }
    let samples: Vec<_> = Import::open(folder.path()).unwrap().map(Result::unwrap).collect();
    let seen: Vec<_> = samples.iter().map(|s| (s.id.as_str(), s.labels[0].as_str())).collect();
    let expected =
        [("bolt/new/c.jpg", "bolt"), ("nut/a.jpg", "nut"), ("nut/shift 2/late/b.jpg", "nut")];
    assert_eq!(seen, expected);
}
