"""What models do to their batch, as functions `body(toy, x)`: those that keep samples apart, those that do not.

`toy.linear` is the adapted layer, `x` has shape (samples, 6, 4). A body keeps samples apart where row i of its
output is made of sample i alone, whatever the layout in between.
"""

import ctypes
import pickle
import threading

import torch
from torch.nn import functional as F

APART = []
MIXING = []


def apart(body):
    APART.append(body)
    return body


def mixing(body):
    MIXING.append(body)
    return body


# ---- samples are kept apart


@apart
def plain(toy, x):
    return toy.linear(x)


@apart
def folded_into_blocks(toy, x):
    n = len(x)
    return toy.linear(x.reshape(n * 2, 3, 4)).reshape(n, 6, 4)


@apart
def windows_in_the_middle(toy, x):
    n = len(x)
    windows = x.view(n, 2, 3, 4).permute(1, 0, 2, 3).reshape(-1, 3, 4)  # window-major: tiles of the batch
    return toy.linear(windows).view(2, n, 3, 4).permute(1, 0, 2, 3).reshape(n, 6, 4)


@apart
def time_major(toy, x):
    return toy.linear(x.transpose(0, 1)).transpose(0, 1)


@apart
def flattened_to_one_row(toy, x):
    return toy.linear(x.reshape(1, -1, 4)).reshape(x.shape)


@apart
def tokens_as_rows(toy, x):
    return toy.linear(x.reshape(-1, 4)).reshape(x.shape)


@apart
def time_major_tokens_as_rows(toy, x):
    return toy.linear(x.transpose(0, 1).reshape(-1, 4)).reshape(6, len(x), 4).transpose(0, 1)


@apart
def rows_that_no_single_dimension_divides(toy, x):
    return (
        toy.linear(x.reshape(2, -1, 4)).reshape(x.shape)
        if len(x) % 2
        else toy.linear(x.reshape(8, -1, 4)).reshape(x.shape)
    )


@apart
def tiled_for_guidance(toy, x):
    first, second = toy.linear(torch.cat([x, 2 * x])).chunk(2)
    return first + second


@apart
def interleaved_as_beams(toy, x):
    return toy.linear(x.repeat_interleave(3, 0))[1::3]


@apart
def permuted_and_back(toy, x):
    order = torch.arange(len(x)).roll(1)
    return toy.linear(x[order])[order.argsort()]


@apart
def one_call_for_each_sample(toy, x):
    return torch.cat([toy.linear(row.unsqueeze(0)) for row in x])


@apart
def called_again_in_another_layout(toy, x):
    return toy.linear(toy.linear(x.transpose(0, 1)).transpose(0, 1).tanh())


@apart
def batch_in_the_groups_of_a_convolution(toy, x):
    n = len(x)
    weight = torch.linspace(-1, 1, 4 * 4 * 3, dtype=x.dtype).view(4, 4, 3).repeat(n, 1, 1)
    y = F.conv1d(toy.linear(x).transpose(1, 2).reshape(1, n * 4, 6), weight, padding=1, groups=n)
    return toy.linear(y.view(n, 4, 6).transpose(1, 2))


@apart
def attention_within_blocks_of_one_packed_row(toy, x):
    n = len(x)
    packed = toy.linear(x).reshape(1, n * 6, 4)
    block = torch.arange(n).repeat_interleave(6)
    mask = torch.zeros(n * 6, n * 6, dtype=x.dtype).masked_fill(block[:, None] != block[None, :], float("-inf"))
    y = torch.softmax(packed @ packed.transpose(1, 2) + mask, -1) @ packed
    return toy.linear(y).reshape(x.shape)


@apart
def packed_by_a_mask_and_back(toy, x):
    keep = torch.ones(len(x), 6, dtype=torch.bool)
    keep[1, 4:] = keep[0, :1] = False
    y = x.clone()
    y[keep] = toy.linear(x[keep])
    return y


@apart
def written_into_a_buffer(toy, x):
    y = torch.empty_like(x)
    for row in range(len(x)):
        y[row] = toy.linear(x)[row]
    y[:, 2:4].mul_(0.5)
    return y


@apart
def strided_windows(toy, x):
    windows = toy.linear(x).as_strided((len(x), 5, 2, 4), (24, 4, 4, 1))
    return windows.sum(2)


@apart
def learned_queries(toy, x):
    queries = torch.linspace(-1, 1, 8, dtype=x.dtype).view(1, 2, 4).expand(len(x), -1, -1)
    q = toy.linear(queries)
    return torch.softmax(q @ x.transpose(1, 2), -1) @ x


@apart
def a_class_token(toy, x):
    token = torch.ones(1, 1, 4, dtype=x.dtype).expand(len(x), -1, -1)
    y = toy.linear(torch.cat([token, x], 1))
    return torch.softmax(y @ y.transpose(1, 2), -1) @ y


@apart
def reversed_twice(toy, x):
    return toy.linear(x.flip(0)).flip(0)


@apart
def einsum_within_samples(toy, x):
    y = toy.linear(x)
    return torch.einsum("nij,nkj->nik", y, y)


@apart
def cumulated_along_time(toy, x):
    return toy.linear(x).cumsum(1)


@apart
def fourier_along_time(toy, x):
    return torch.fft.fft(toy.linear(x), dim=1).real


@apart
def the_best_of_each_sample(toy, x):
    y = toy.linear(x)
    best = y.sum(-1).topk(3, dim=1).indices
    return y.gather(1, best.unsqueeze(-1).expand(-1, -1, 4))


@apart
def scattered_within_samples(toy, x):
    y = toy.linear(x)
    index = torch.tensor([3, 1, 0, 2, 5, 4]).view(1, 6, 1).expand(len(x), -1, 4)
    return torch.zeros_like(y).scatter_add(1, index, y)


@apart
def packed_pictures_into_places_in_text(toy, x):
    n = len(x)
    pictures = toy.linear(x[:, :2].reshape(2 * n, 4))  # twice as many rows as samples
    places = torch.zeros(n, 6, 1, dtype=torch.bool)
    places[:, 1:3] = True
    return toy.linear(x.masked_scatter(places, pictures))


@apart
def padded_and_trimmed(toy, x):
    return toy.linear(F.pad(x, (0, 0, 2, 1)))[:, 2:-1]


@apart
def mapped_over_samples(toy, x):
    y = toy.linear(x)
    return torch.stack([torch.outer(row.sum(-1), row.sum(-1)) for row in y.unbind()])


@apart
def bits_of_the_values(toy, x):
    return toy.linear(x).view(torch.int64).view(torch.float64)


@apart
def a_constant_beside_the_samples(toy, x):
    return toy.linear(torch.cat([x, torch.ones(1, 6, 4, dtype=x.dtype)]))[: len(x)]


@apart
def lengths_read_by_python(toy, x):
    lengths = torch.full((len(x),), 6).tolist()
    return torch.stack([row[:length] for row, length in zip(toy.linear(x), lengths)])


@apart
def the_outermost_first(toy, x):
    y = toy.linear(x)
    order = y.sum(-1).argsort(dim=1)
    return toy.linear(y.gather(1, order.unsqueeze(-1).expand_as(y)))


# ---- samples meet


@mixing
def mean_over_the_batch(toy, x):
    y = toy.linear(x)
    return y - y.mean(0)


@mixing
def rolled_over_the_batch(toy, x):
    return toy.linear(x).roll(1, 0)


@mixing
def flipped_over_the_batch(toy, x):
    return toy.linear(x).flip(0)


@mixing
def attention_over_the_batch(toy, x):
    y = toy.linear(x[:, 0])
    return torch.softmax(y @ y.t(), -1) @ y


@mixing
def softmax_over_the_batch(toy, x):
    return toy.linear(x).softmax(0)


@mixing
def the_best_of_the_batch(toy, x):
    y = toy.linear(x)
    return y * y.sum((1, 2)).topk(2).values.sum()


@mixing
def capacity_over_the_batch(toy, x):
    y = toy.linear(x)
    chosen = (y.sum(-1) > 0).reshape(-1).long()
    return y * (chosen.cumsum(0) <= 3).view(len(x), 6, 1)


@mixing
def sorted_over_the_batch(toy, x):
    return toy.linear(x).sort(0).values


@mixing
def einsum_over_the_batch(toy, x):
    y = toy.linear(x)
    return torch.einsum("nij,mij->nm", y, y)


@mixing
def fourier_over_the_batch(toy, x):
    return torch.fft.fft(toy.linear(x), dim=0).real


@mixing
def batch_statistics(toy, x):
    return F.batch_norm(toy.linear(x).transpose(1, 2), None, None, training=True).transpose(1, 2)


@mixing
def numpy_round_trip_that_flips(toy, x):
    return torch.from_numpy(toy.linear(x).detach().numpy()[::-1].copy())


@mixing
def list_round_trip_that_flips(toy, x):
    return torch.tensor(toy.linear(x).tolist()[::-1], dtype=x.dtype)


@mixing
def dlpack_round_trip_that_flips(toy, x):
    return torch.from_dlpack(toy.linear(x).detach()).flip(0)


@mixing
def pickle_round_trip_that_flips(toy, x):
    return pickle.loads(pickle.dumps(toy.linear(x).detach())).flip(0)


@mixing
def flipped_on_another_thread(toy, x):
    done, y = [], toy.linear(x)
    thread = threading.Thread(target=lambda: done.append(y.flip(0)))
    thread.start()
    thread.join()
    return done[0]


@mixing
def scaled_by_a_number_of_the_batch(toy, x):
    y = toy.linear(x)
    return y * y.abs().max().item()


@mixing
def a_branch_on_the_batch(toy, x):
    y = toy.linear(x)
    return y if y.sum() > 0 else -y


@mixing
def a_row_that_all_need(toy, x):
    return x + toy.linear(torch.ones(1, 4, dtype=x.dtype)).sum()


@mixing
def memory_written_unseen(toy, x):
    y = toy.linear(x).contiguous()
    out = torch.empty_like(y)
    flipped = y.detach().numpy()[::-1].copy()
    ctypes.memmove(out.data_ptr(), flipped.ctypes.data, flipped.nbytes)
    return out * 1.0


@mixing
def the_next_samples_row(toy, x):
    y = toy.linear(x)
    return torch.cat([y[1:], y[:1]])


@mixing
def distances_between_samples(toy, x):
    y = toy.linear(x)[:, 0]
    return torch.cdist(y, y)


@mixing
def one_row_overwrites_another(toy, x):
    y = toy.linear(x).clone()
    y[0] = y[1]
    return y
