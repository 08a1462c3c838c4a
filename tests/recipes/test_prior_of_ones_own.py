"""Commands around a prior that a user brings by ``module:function``: of latents, out of reach, with words of its own."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tiny import mine, tabletop
from tiny.rlds_files import rt1_episode, write_set
from trimtab.control.inverse_dynamics import InverseDynamics
from trimtab.core.contracts import EncodesText, Prior
from trimtab.core.values import Conditioning
from trimtab.diffusion import sampling
from trimtab.metrics.protocol import Evaluation
from trimtab.networks.encoders import MiniLM
from trimtab.recipes._prior import frame_size, prior_of
from trimtab.recipes.domains.metaworld import words_of
from trimtab.recipes.planning import bench as planning
from trimtab.recipes.planning import continuations
from trimtab.recipes.planning.adaptations import CUSTOMIZED, FINETUNED, IN_DOMAIN, INVERSE, NORMALISED, PROBABILISTIC
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
    (tmp_path / "beside_the_command.py").write_text("from tiny.mine import closed as load\n")
    assert isinstance(prior_of("beside_the_command:load"), Prior)


def test_a_schedule_is_given_to_embedded_priors_alone() -> None:
    assert prior_of("tabletop", "linear, zero terminal SNR").schedule.may_be_pure
    assert not prior_of("tiny.mine:closed", "linear, zero terminal SNR").schedule.may_be_pure


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (
            "no_such_module:load",
            r"No module named 'no_such_module'; before the colon goes a module that is installed, or a",
        ),
        ("tiny.mine:load", "has no attribute 'load'"),
        ("tiny.mine:not_a_prior", "makes is no prior: it lacks uses, space, bind, .* see docs/your_model.md"),
        ("nowhere", "neither one that ships"),
    ],
)
def test_what_makes_no_prior_is_refused(name: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        prior_of(name)


def test_a_prior_is_told_in_its_own_words() -> None:
    own, prior = mine.closed(), tabletop.prior()
    assert isinstance(own, EncodesText)
    assert torch.equal(words_of(own)(TASKS), own.encode_text(TASKS))
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
        assert video.abs().max() <= 1
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


def test_methods_that_need_weights_are_left_to_priors_that_show_theirs(bench: Bench) -> None:
    shut = {name for name in NORMALISED if not bench.allows(name)}
    assert shut == {FINETUNED, CUSTOMIZED}
    bench.check([IN_DOMAIN, INVERSE])
    with pytest.raises(ValueError, match="direct finetuning needs a prior whose weights are within reach"):
        bench.check([FINETUNED])
    seen = replace(bench, prior=mine.of_latents(64, 64))
    seen.check(NORMALISED)


def test_stills_of_an_open_prior_of_latents_are_latents(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NUM_PRESERVED", "NUM_STILLS", "STILL_STEPS"):
        monkeypatch.setattr(f"trimtab.recipes.planning.adaptations.{name}", 2)
    seen = replace(bench, prior=mine.of_latents(64, 64))
    assert seen.train("dreambooth", 0)[1]["stills"] == 2


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
