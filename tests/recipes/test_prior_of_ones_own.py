"""Commands around a prior that a user brings by ``module:function``: of latents, out of reach, with words of its own."""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tiny import mine, tabletop
from tiny.rlds_files import rt1_episode, write_set
from trimtab import forecast
from trimtab.adapters.dreambooth import evenly
from trimtab.control.inverse_dynamics import InverseDynamics
from trimtab.core.contracts import EncodesText, Prior
from trimtab.core.values import Conditioning, Prediction
from trimtab.data.episodes import Episodes
from trimtab.diffusion import sampling
from trimtab.metrics.protocol import Evaluation
from trimtab.networks.encoders import MiniLM
from trimtab.priors.pixel_unet import PixelUNet
from trimtab.recipes._prior import OWED, check_answers, clip_length, frame_size, patch_of, prior_of, words_of
from trimtab.recipes.metaworld_sweep import metaworld_sweep
from trimtab.recipes.motion_isolation import motion_isolation
from trimtab.recipes.planning import bench as planning
from trimtab.recipes.planning import continuations
from trimtab.recipes.planning.adaptations import (
    CUSTOMIZED,
    FINETUNED,
    IN_DOMAIN,
    INVERSE,
    NORMALISED,
    PROBABILISTIC,
    TRAININGS,
    of_stills,
)
from trimtab.recipes.planning.bench import Bench
from trimtab.recipes.planning.scales import Scale
from trimtab.recipes.rt1_benchmark import SCALES, rt1_benchmark
from trimtab.recipes.score_alignment import score_alignment

TASKS = ["close the door", "open the door"]


def test_a_prior_is_named_by_a_word_a_path_or_a_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tabletop.prior()
    made.save(tmp_path / "prior.safetensors")
    assert prior_of(str(tmp_path / "prior.safetensors")).fingerprint == made.fingerprint
    assert prior_of("tabletop").uses == {"context", "text"}
    assert prior_of("tiny.mine:closed").space == mine.Unshuffled.space
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "attr.py").write_text("from tiny.mine import closed as load\n")  # a package is called so, too
    monkeypatch.delitem(sys.modules, "attr", raising=False)
    assert isinstance(prior_of("attr:load"), Prior)
    monkeypatch.delitem(sys.modules, "attr")


def test_a_module_is_frozen() -> None:
    made = prior_of("tiny.mine:trainable")
    assert isinstance(made, PixelUNet)
    assert not made.training
    assert not any(value.requires_grad for value in made.parameters())


def test_a_schedule_is_given_to_embedded_priors_alone() -> None:
    assert prior_of("tabletop", "linear, zero terminal SNR").schedule.may_be_pure
    assert not prior_of("tiny.mine:closed", "linear, zero terminal SNR").schedule.may_be_pure


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("no_such_module:load", r"No module named 'no_such_module'; before the colon goes a file in"),
        (".mine:load", "before the colon goes a file in"),
        (":load", "before the colon goes a file in"),
        ("tiny.mine:load", "tiny.mine has no function 'load'"),
        ("tiny.mine:NUM_BITS", "tiny.mine has no function 'NUM_BITS'"),
        ("builtins:dict", "makes is no prior: it lacks uses, space, bind, .* see docs/your_model.md"),
        ("nowhere", "neither one that ships"),
    ],
)
def test_what_makes_no_prior_is_refused(name: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        prior_of(name)


def test_what_a_module_of_ones_own_lacks_is_said_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "lacking.py").write_text("import no_such_module_either\n")
    with pytest.raises(ValueError, match=r"lacking was imported, and failed: .*no_such_module_either"):
        prior_of("lacking:load")


def test_what_a_prior_owes_is_what_the_contract_says() -> None:
    members = {name for kind in Prior.__mro__ for name in vars(kind) if not name.startswith("_")}
    assert members == set(OWED)


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"space": "another"}, "spaces must be one"),
        ({"codec": mine.Doubling()}, "of 2 frames a latent"),
        ({"frame_shape": (12, 64, 64), "codec": mine.Halving()}, r"frames are encoded as \(1, 12, 32, 32\)"),
        ({"encode_text": lambda sentences: torch.zeros(1, len(sentences[0]), 5)}, "pad what is short"),
        ({"encode_text": lambda sentences: torch.zeros(1, 5)}, r"not as \(1, token, feature\)"),
        ({"encode_text": lambda sentences: [0.0]}, "asked to encode a text, and failed at .*: TypeError"),
        (
            {"bind": lambda given: given.text.mean()},
            r"asked what follows a grey clip and a text, .* its own, and failed at",
        ),
        ({"bind": lambda given: lambda noisy, level: noisy}, "answers no Prediction but Tensor"),
        ({"bind": lambda given: lambda noisy, level: Prediction(noisy * math.nan, "noise", noisy, level)}, "finite"),
        (
            {"bind": lambda given: lambda noisy, level: Prediction(noisy[:, :1], "noise", noisy[:, :1], level)},
            "it answers",
        ),
    ],
)
@pytest.mark.usefixtures("without_shape_types")
def test_a_prior_that_does_not_keep_its_word_is_refused(changed: dict[str, Any], problem: str) -> None:
    prior = mine.closed()
    check_answers(prior)
    vars(prior).update(changed)
    with pytest.raises(ValueError, match=problem):
        check_answers(prior)


def test_a_prior_that_tells_all_of_a_batch_what_some_are_told_is_refused() -> None:
    prior = mine.closed()
    vars(prior)["bind"] = lambda given: prior._inner.bind(Conditioning(context=given.context, text=given.text))
    with pytest.raises(ValueError, match="does not heed"):
        check_answers(prior)


def test_clips_are_as_long_as_the_longest_that_is_trained_on() -> None:
    prior = mine.closed()
    assert clip_length(prior, (1, 4)) == 4
    with pytest.raises(ValueError, match="clips of 9 frames are asked for, and this prior predicts 8"):
        clip_length(prior, (1, 9))


def test_a_network_beside_a_prior_looks_as_closely() -> None:
    assert patch_of(mine.closed()) == 1
    assert patch_of(mine.of_latents(64, 64)) == 4


def test_a_prior_is_told_in_its_own_words() -> None:
    own, prior = mine.closed(), tabletop.prior()
    assert isinstance(own, EncodesText)
    states = words_of(own)(TASKS)
    assert torch.equal(states, own.encode_text(TASKS))
    assert not states.requires_grad
    assert words_of(prior)(TASKS).shape[-1] == MiniLM.dim
    assert frame_size(own) == frame_size(prior) == (64, 64)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    few = tabletop.dots(tmp_path / "dots")
    monkeypatch.setattr(planning, "demonstrations", lambda share, datasets, **pace: few)
    monkeypatch.setattr(continuations, "metaworld_episodes", lambda **settings: few)
    InverseDynamics(width=4).save(tmp_path / "reader.safetensors")
    size = Scale(teraflops=0.02, num_steps=2, batch_size=2)
    monkeypatch.setitem(planning.SCALES, "smoke", size)
    return Bench(mine.closed(), size, tmp_path / "reader.safetensors", 0.0, tmp_path, tmp_path / "run")


def test_it_plans_by_latents_and_its_own_words(bench: Bench) -> None:
    model, facts = bench.train("in-domain", 0)
    assert facts["steps"] > 0
    assert model.settings["text_dim"] == 5
    held = bench.clips("check", ["door-close"], 0, 4)
    frames = np.full((2, 64, 64, 3), 90, np.uint8)
    for name in (PROBABILISTIC, INVERSE, "AVID"):
        how = bench.adaptations[name]
        denoiser = how.denoiser(bench.prior, bench.train(how.training, 0)[0])
        video = bench.continued(denoiser, held, 0, how)
        assert video.shape == held.clip.video.shape
        planner = bench.planner(denoiser, 0, how)
        planner.reset(TASKS)
        assert planner.act(frames).shape == (2, 4)


def test_what_is_imagined_is_sampled_in_latents_and_decoded(bench: Bench) -> None:
    held, prior = bench.clips("check", ["door-close"], 0, 4), bench.prior
    noise = sampling.start_noise((8, *prior.frame_shape), 0, held.indices.tolist())
    given = Conditioning(context=prior.codec.encode(held.told), text=held.texts)
    pairs = sampling.pairs(prior.schedule, 2)
    latents = sampling.dpm_solver_pp_2m(prior, bench.size.temperature * noise, given, pairs=pairs)
    torch.testing.assert_close(bench.continued(prior, held, 0), prior.codec.decode(latents).clamp(-1, 1))


def test_methods_that_need_weights_are_left_to_priors_that_show_theirs(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert set(bench.barred(NORMALISED)) == {FINETUNED, CUSTOMIZED}
    assert set(bench.usual(NORMALISED)) == {*NORMALISED} - {FINETUNED, CUSTOMIZED}
    assert "left out, as this prior's weights are out of reach" in " ".join(capsys.readouterr().out.split())
    bench.check([IN_DOMAIN, INVERSE])
    with pytest.raises(ValueError, match=r"\['direct finetuning'\] need a prior whose weights are within reach"):
        bench.check([FINETUNED])
    with pytest.raises(ValueError, match=r"\['subject customization'\] need a prior"):
        motion_isolation(prior="tiny.mine:closed", datasets=tmp_path / "none", output=tmp_path / "out")
    assert not (tmp_path / "none").exists()
    seen = replace(bench, prior=mine.of_latents(64, 64))
    seen.check(NORMALISED)


def test_a_model_is_bound_to_the_words_that_it_was_trained_by(bench: Bench) -> None:
    bench.train("in-domain", 0)
    other = mine.closed()
    vars(other)["encode_text"] = lambda sentences: mine.Closed.encode_text(other, sentences) * 2
    with pytest.raises(ValueError, match="was trained with words"):
        replace(bench, prior=other).train("in-domain", 0)


def test_stills_of_an_open_prior_of_latents_are_latents(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NUM_PRESERVED", "NUM_STILLS", "STILL_STEPS"):
        monkeypatch.setattr(f"trimtab.recipes.planning.adaptations.{name}", 2)
    prior, few, clamps = mine.of_latents(64, 64), bench.demonstrations(), list[object]()

    def sample(prior: Prior, noise: torch.Tensor, given: Conditioning, **options: object) -> torch.Tensor:
        clamps.append(options["clamp"])
        return noise

    monkeypatch.setattr(sampling, "dpm_solver_pp_2m", sample)
    model = TRAININGS["dreambooth"].made(prior)
    _, stills = of_stills(model, prior, few, 0)
    frames = stills.batch([0, 1]).video
    assert frames.shape == (2, 1, *prior.frame_shape)
    assert isinstance(few, Episodes)
    assert torch.equal(prior.codec.decode(frames)[:, 0], evenly(few.frames, 2))
    assert clamps == [None]


def test_what_is_swept_by_default_is_what_it_allows(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(forecast, "TRIED", 1)
    metaworld_sweep(
        prior="tiny.mine:closed",
        reader=bench.reader,
        planning=tmp_path / "run",
        output=tmp_path / "sweep",
        dry_run=True,
    )
    assert "direct finetuning, subject customization" in " ".join(capsys.readouterr().out.split())


def test_it_is_compared_with_the_in_domain_model_in_latents(bench: Bench, tmp_path: Path) -> None:
    score_alignment(
        num_levels=2, num_clips=4, prior="tiny.mine:closed", datasets=tmp_path, planning=tmp_path / "run",
        output=tmp_path / "out",
    )  # fmt: skip
    written = json.loads((tmp_path / "out" / "score_alignment.json").read_text())
    assert written["prior"] == bench.prior.fingerprint


def test_avids_methods_around_it_are_those_that_need_no_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_set(tmp_path / "rt1" / "0.1.0", [[rt1_episode(number, 10) for number in range(200)]])
    usual = ("frozen prior", "AVID", "ControlNet", "finetuning with language")
    monkeypatch.setitem(SCALES, "smoke", replace(SCALES["smoke"], lengths=(8,), methods=usual))
    monkeypatch.setattr("trimtab.recipes.benchmark.inspection.NUM_ASKED", 4)

    def run(methods: Sequence[str] | None) -> None:
        rt1_benchmark(
            folder, methods=methods, teraflops=0.02, num_clips=5, num_episodes=20, num_steps=2, batch_size=2,
            prior="tiny.mine:deaf", datasets=tmp_path / "datasets", output=tmp_path / "run",
        )  # fmt: skip

    with pytest.raises(ValueError, match=r"\['ControlNet'\] need a prior whose weights are within reach"):
        run(["ControlNet"])
    run(None)
    said = " ".join(capsys.readouterr().out.split())
    assert "left out, as this prior does not allow them: finetuning with language, ControlNet" in said
    cells = [Evaluation.from_json(path.read_text()) for path in (tmp_path / "run" / "cells").iterdir()]
    assert {cell.protocol["notes"]["method"] for cell in cells} == {"frozen prior", "AVID"}
