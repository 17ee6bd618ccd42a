"""The search's candidates: which of them share their spectrograms."""

from earsight.commands.options import StoreOptions
from earsight.commands.tuning import _candidates
from earsight.training.trial import Trial
from earsight.tuning.space import make_points


def test_points_share_spectrograms_only_at_the_same_pitch_steps(synthetic, tiny, cpu, tmp_path):
    points = make_points(tiny(), grid=["augment.pitch_semitones=1,2", "training.learning_rate=0.1,0.2"])
    store = StoreOptions(cache=tmp_path / "cache")
    found = _candidates(points, synthetic, [Trial(1, 0)], tmp_path / "search", store=store, device=cpu)
    steps = {one.prepared.recipe.augment.pitch_semitones: one.prepared.store.semitones for one in found}
    assert steps == {1: (-1, 0, 1), 2: (-2, -1, 0, 1, 2)}
    assert len({id(one.prepared.store) for one in found}) == 2
