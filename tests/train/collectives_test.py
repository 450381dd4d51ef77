"""Collectives read from the text of compiled programs: literal lines as XLA's compilers for CPUs and TPUs write them."""

import pytest

from cotdistill_jax.train import collectives
from cotdistill_jax.train.collectives import Traffic

FLAT = """
  %ar = f32[4,2]{1,0} all-reduce(f32[4,2]{1,0} %x), channel_id=1
  %both = (bf16[8]{0}, s32[]) all-reduce(bf16[8]{0} %y, s32[] %z), channel_id=2
  ROOT %ag = f32[16,4]{1,0} all-gather(f32[4,4]{1,0} %w), dimensions={0}
  %fused = f32[4]{0} fusion(f32[4]{0} %ar), kind=kLoop
"""
# Three layers in two microbatches; a gather hidden in two fusions; a reduce-scatter in disguise; a permutation in two halves.
LOOPS = """HloModule jit_step

%started (p: bf16[64]) -> bf16[256] {
  %ag.1 = bf16[256]{0:T(256)(128)(2,1)S(1)} all-gather(%p), channel_id=7, dimensions={0}
}

%finished (p: bf16[64]) -> bf16[256] {
  %ag.2 = bf16[256]{0:T(256)(128)(2,1)} all-gather(%p), channel_id=7, dimensions={0}
}

%all-reduce-scatter.18.clone.1 (input.20: f32[256,512]) -> f32[64,512] {
  %ar.3 = f32[256,512]{1,0:T(8,128)} all-reduce(%input.20), channel_id=9, to_apply=%add
}

%layer_condition.4_spmd.clone (p.1: (s32[], bf16[64])) -> pred[] {
  %constant.4 = s32[]{:T(128)} constant(3)
  %i = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %constant.4), direction=LT
}

%layer (p.2: (s32[], bf16[64])) -> (s32[], bf16[64]) {
  %f.1 = (bf16[256]{0}, u32[]{:S(2)}) fusion(%p.2), kind=kCustom, calls=%started
  %f.2 = bf16[256]{0} fusion(%f.1), kind=kCustom, calls=%finished
}

%part_condition (p.3: (s32[], bf16[64])) -> pred[] {
  %constant.5 = s32[]{:T(128)} constant(2)
  ROOT %lt.2 = pred[]{:T(512)} compare(%i.2, %constant.5), direction=LT
}

%part (p.4: (s32[], bf16[64])) -> (s32[], bf16[64]) {
  %while.1 = (s32[], bf16[64]{0}) while(%t.1), condition=%layer_condition.4_spmd.clone, body=%layer
  %fusion.9 = f32[64,512]{1,0:T(8,128)} fusion(%g), kind=kCustom, calls=%all-reduce-scatter.18.clone.1
}

%until_done (p.5: (s32[], pred[])) -> pred[] {
  %constant.6 = s32[]{:T(128)} constant(3)
  ROOT %gt = pred[]{:T(512)} compare(%i.3, %constant.6), direction=GT
}

%token (p.6: (s32[], pred[])) -> (s32[], pred[]) {
  %cp = (f32[2,8]{1,0}, f32[2,8]{1,0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%q), channel_id=11
  %cp-done = f32[2,8]{1,0} collective-permute-done(%cp)
}

ENTRY %main.103_spmd (param.1: f32[64], param.2: s32[]) -> f32[] {
  %while.2 = (s32[], bf16[64]{0}) while(%t.2), condition=%part_condition, body=%part
  %while.3 = (s32[], pred[]) while(%t.3), condition=%until_done, body=%token
  ROOT %sum = f32[]{:T(128)} all-reduce(%s), channel_id=12, to_apply=%add
}
"""


def test_bytes_are_counted_by_kind():
    assert collectives.once(FLAT) == {"all-reduce": 4 * 2 * 4 + 8 * 2 + 4, "all-gather": 16 * 4 * 4}


def test_a_loop_counts_as_often_as_it_runs_and_a_split_collective_once():
    assert collectives.per_run(LOOPS) == {
        "all-gather": Traffic(2 * 3, 2 * 3 * 256 * 2.0),
        "reduce-scatter": Traffic(2, 2 * 256 * 512 * 4.0),
        "collective-permute": Traffic(1, 2 * 8 * 4.0),
        "all-reduce": Traffic(1, 4.0),
    }


def test_what_is_no_program_is_refused():
    with pytest.raises(ValueError, match="ENTRY"):
        collectives.per_run(FLAT)
