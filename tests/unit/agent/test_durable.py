import pytest

from linnet_agent import durable


def test_a_file_is_replaced_whole_with_its_mode(tmp_path):
    path = tmp_path / "journal.json"
    durable.write_file(path, b"old")

    durable.write_file(path, b"new", mode=0o600)

    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["journal.json"]


def test_a_link_is_swapped_though_a_kill_has_left_a_temporary_one(tmp_path):
    link = tmp_path / "current"
    durable.swap_link(link, "a")
    (tmp_path / ".linnet-tmp-current").symlink_to("left-behind")

    durable.swap_link(link, "b")

    assert link.readlink().name == "b"
    assert [p.name for p in tmp_path.iterdir()] == ["current"]


def test_a_directory_goes_with_all_in_it_though_trash_is_left_from_before(tmp_path):
    for name in ("model", ".trash-model"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_bytes(b"x")
        (tmp_path / name / "weights").chmod(0o444)

    durable.remove_directory(tmp_path / "model")

    assert list(tmp_path.iterdir()) == []


def test_a_stray_file_goes_like_a_directory_and_so_does_its_trash(tmp_path):
    for name in ("stray", ".trash-old"):
        (tmp_path / name).write_bytes(b"x")

    durable.remove_directory(tmp_path / "stray")
    durable.remove_directory(tmp_path / ".trash-old")

    assert list(tmp_path.iterdir()) == []


def test_what_is_not_there_is_removed_already(tmp_path):
    durable.remove_directory(tmp_path / "none")
    durable.remove_file(tmp_path / "none")


def test_a_sweep_takes_what_kills_leave_and_nothing_else(tmp_path):
    (tmp_path / ".trash-a").mkdir()
    (tmp_path / ".linnet-tmp-b").mkdir()
    (tmp_path / ".linnet-tmp-c").symlink_to("nowhere")
    (tmp_path / ".linnet-tmp-d").write_bytes(b"")
    (tmp_path / "kept").mkdir()

    durable.sweep(tmp_path)

    assert [p.name for p in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize("depth", [1, 3])
def test_directories_are_made_with_their_parents(tmp_path, depth):
    path = tmp_path.joinpath(*"abc"[:depth])

    durable.make_directory(path)
    durable.make_directory(path)

    assert path.is_dir()
