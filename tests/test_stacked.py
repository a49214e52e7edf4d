"""Stacked layers: equal to plain networks, and each seed's bits untouched by its group."""

import numpy as np
import pytest
import torch
from torch import nn

from algorithms.nn import categorical
from algorithms.nn.compiled import MINIMUM_STEPS, compile_graph, resolve_compile
from algorithms.nn.encode import Encoder, action_mask, from_rows, mean_rows, to_rows
from algorithms.nn.optim import Adam, polyak
from algorithms.nn.stacked import StackedMLP, generators, parameters_per_seed
from benchmark.checks.fixtures import POPULATION, TEAM, toy_dataset
from benchmark.errors import UserError

SIZES = (18, 32, 32, 5)


def plain(mlp: StackedMLP, *entry: int) -> nn.Sequential:
    """An ordinary network with the weights of one entry of the stack."""
    layers: list[nn.Module] = []
    for linear in mlp.linears:
        n_in, n_out = linear.weight.shape[-2:]
        layer = nn.Linear(n_in, n_out)
        layer.weight.data = linear.weight[entry].T.clone()
        layer.bias.data = linear.bias[entry][0, :n_out].clone()
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@pytest.mark.parametrize("rows", [1, 7, 64])
@pytest.mark.parametrize("width", [1, 5])
def test_a_stack_computes_what_plain_networks_compute(rows, width):
    mlp = StackedMLP(generators((0, 1)), (3,), (18, 32, width))
    x = torch.randn(2, 3, rows, 18, generator=torch.Generator().manual_seed(0))
    y = mlp(x)
    assert y.shape == (2, 3, rows, width)
    for k in range(2):
        for m in range(3):
            torch.testing.assert_close(y[k, m], plain(mlp, k, m)(x[k, m]))


def test_a_head_is_one_entry_of_the_last_stack_axis():
    mlp = StackedMLP(generators((0, 1)), (3, 2), SIZES, layer_norm=True)
    x = torch.randn(2, 3, 16, 18)
    both = mlp(x.unsqueeze(2).expand(-1, -1, 2, -1, -1))
    for head in range(2):
        torch.testing.assert_close(mlp(x, head=head), both[:, :, head])


def test_parameters_are_counted_without_padding():
    mlp = StackedMLP(generators((0, 1)), (3,), SIZES)
    assert parameters_per_seed(mlp) == 3 * sum(p.numel() for p in plain(mlp, 0, 0).parameters())


def descend(seeds, stack, sizes, rows, steps=5, **options):
    """Weights, targets and optimiser state of a regression, one list entry per tensor [K, ...]."""
    mlp = StackedMLP(generators(seeds), stack, sizes, **options)
    target = StackedMLP(generators(seeds), stack, sizes, **options)
    adam = Adam(list(mlp.parameters()), 1e-2)
    gens = generators([seed + 100 for seed in seeds])
    for _ in range(steps):
        x = torch.stack([torch.randn(*stack, rows, sizes[0], generator=gen) for gen in gens])
        y = torch.stack([torch.randn(*stack, rows, sizes[-1], generator=gen) for gen in gens])
        loss = (mlp(x) - y).square().sum(-1).mean(-1).sum()
        adam.step(torch.autograd.grad(loss, adam.parameters))
        polyak(target, mlp, 0.1)
    return [*(p.detach() for p in mlp.parameters()), *target.parameters(), *adam.mean, *adam.square]


@pytest.mark.parametrize("stack", [(), (1,), (3,), (2, 2)])
@pytest.mark.parametrize("sizes", [(5, 16, 16, 1), SIZES, (7, 64, 2)])
@pytest.mark.parametrize("options", [{}, {"layer_norm": True, "output": torch.tanh}])
def test_a_seed_has_the_same_bits_in_any_group(stack, sizes, options):
    group = descend((4, 0, 9), stack, sizes, 48, **options)
    for k, seed in enumerate((4, 0, 9)):
        alone = descend((seed,), stack, sizes, 48, **options)
        assert all(torch.equal(a[k], b[0]) for a, b in zip(group, alone, strict=True))


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("width", [1, 2, 5])
def test_outputs_have_the_same_bits_for_any_number_of_rows(rows, width):
    mlp = StackedMLP(generators((4, 0, 9)), (2,), (64, 64, width), output=torch.tanh)
    x = torch.randn(3, 2, rows, 64, generator=torch.Generator().manual_seed(0))
    for k, seed in enumerate((4, 0, 9)):
        alone = StackedMLP(generators((seed,)), (2,), (64, 64, width), output=torch.tanh)
        assert torch.equal(mlp(x)[k], alone(x[k : k + 1].clone())[0])


def test_adam_is_torch_adam_and_resumes():
    gen = torch.Generator().manual_seed(0)
    ours = [torch.randn(3, 5, generator=gen), torch.randn(2, generator=gen)]
    theirs = [nn.Parameter(p.clone()) for p in ours]
    adam, torch_adam = Adam(ours, 1e-2), torch.optim.Adam(theirs, 1e-2)
    for step in range(10):
        gradients = [torch.randn(p.shape, generator=gen) for p in ours]
        for p, gradient in zip(theirs, gradients, strict=True):
            p.grad = gradient
        if step == 5:  # a fresh optimiser with the stored state goes on alike
            fresh = Adam(ours, 1e-2)
            fresh.load_state_dict(adam.state_dict())
            adam = fresh
        adam.step(gradients)
        torch_adam.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b.detach())


# -------------------------------------------------------------------------------------- encoding
def test_rows_come_back_as_they_went():
    x = torch.randn(2, 16, 3, 4)
    assert to_rows(x, TEAM).shape == (2, 3, 16, 4)
    assert torch.equal(from_rows(to_rows(x, TEAM), TEAM, 3), x)
    assert to_rows(x, POPULATION).shape == (2, 1, 48, 4)
    assert torch.equal(from_rows(to_rows(x, POPULATION), POPULATION, 3), x)


def test_vectors_are_normalised_per_agent_and_padding_stays_zero():
    data = toy_dataset(TEAM)
    data.obs = data.obs * 7 + 3
    data.obs[:, 1, 3:] = 0  # padding of the narrow agent
    encoder = Encoder(TEAM)
    encoder.fit(data)
    rows = to_rows(torch.as_tensor(data.obs)[None], TEAM)  # [1, 2, S, 5]
    x = encoder(rows, torch.zeros(rows.shape[:-1], dtype=torch.int64))[0]
    torch.testing.assert_close(x.mean(1), torch.zeros(2, 5), rtol=0, atol=1e-5)
    spread = torch.tensor([[1.0] * 5, [1.0] * 3 + [0.0] * 2])
    torch.testing.assert_close(x.std(1, correction=0), spread, rtol=0, atol=1e-5)
    assert (x[1, :, 3:] == 0).all()


def test_integers_become_one_hot_with_the_step_of_the_episode():
    obs, step = torch.tensor([[[[2], [4]]]]), torch.tensor([[[0, 3]]])
    x = Encoder(POPULATION)(obs, step)[0, 0]
    assert x.tolist() == [[0, 0, 1, 0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 1, 0, 0, 0, 1]]


def test_action_mask_knows_the_width_of_each_agent():
    assert action_mask(TEAM)[:, 0].tolist() == [[1, 1], [1, 0]]


def test_rows_of_dead_agents_do_not_count():
    x = torch.tensor([[[1.0, 5.0, 3.0]]])
    assert mean_rows(x, None).item() == 3
    assert mean_rows(x, torch.tensor([[[1.0, 0.0, 1.0]]])).item() == 2
    assert mean_rows(x, torch.zeros(1, 1, 3)).item() == 0


# -------------------------------------------------------------------------------------- sampling
def test_actions_follow_their_probabilities_from_rows_and_from_a_table():
    table = np.array([[0.2, 0.0, 0.8], [0.5, 0.5, 0.0]])
    obs = np.arange(40_000) % 2
    u = np.random.default_rng(0).random(len(obs))
    act = categorical.draw(table[obs], u)
    assert np.array_equal(act, categorical.draw_table(table, obs, u))
    counts = np.stack([np.bincount(act[obs == o], minlength=3) for o in range(2)]) / 20_000
    np.testing.assert_allclose(counts, table, atol=0.02)
    assert (counts[table == 0] == 0).all()


def test_rounding_never_gives_an_impossible_action():
    table = np.array([[0.3, 0.3, 0.4 - 1e-9, 0.0]])
    top = np.array([np.nextafter(1.0, 0.0)])
    assert categorical.draw(table, top).item() == 2
    assert categorical.draw_table(table, np.array([0]), top).item() == 2


def test_forbidden_actions_lose_their_probability():
    p = np.array([[0.2, 0.8, 0.0], [0.0, 1.0, 0.0]])
    mask = np.array([[True, False, True], [True, False, True]])
    assert categorical.allow(p, mask).tolist() == [[1, 0, 0], [0.5, 0, 0.5]]


# ------------------------------------------------------------------------------------- compiling
def test_auto_compiles_long_runs_only(monkeypatch):
    assert not resolve_compile("off", 10**9)
    assert not resolve_compile("auto", MINIMUM_STEPS - 1)
    monkeypatch.setenv("CXX", "there-is-no-such-compiler")
    assert not resolve_compile("auto", 10**9)
    with pytest.raises(UserError, match=r"compile is 'on', but no C\+\+ compiler"):
        resolve_compile("on", 1)
    with pytest.raises(UserError, match="'sometimes', expected auto, on or off"):
        resolve_compile("sometimes", 1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_gradient_is_the_eager_gradient():
    x, y = torch.randn(2, 1, 32, 18), torch.randn(2, 1, 32, 5)
    ends = []
    for compiled in (False, True):
        mlp = StackedMLP(generators((0, 1)), (1,), SIZES)
        adam = Adam(list(mlp.parameters()), 1e-2)

        def gradients(mlp=mlp, adam=adam):
            loss = (mlp(x) - y).square().mean((1, 2, 3))
            return loss.detach(), torch.autograd.grad(loss.sum(), adam.parameters)

        run = compile_graph(gradients) if compiled else gradients
        losses = []
        for _ in range(20):
            loss, step = run()
            adam.step(step)
            losses.append(loss)
        ends.append(torch.stack(losses))
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-5)
