"""The training step of training.rs in PyTorch: pictures a second of encoder, decoder with auxiliary heads and denoising queries,
heads on the encoder's tokens, backward pass and AdamW, from features in memory. Matching and losses are left out (a fixed
gradient of the outputs stands for them), which is in PyTorch's favour.

    pip install torch
    python training.py [seconds]
"""
import sys, time
import torch
from torch import nn
import torch.nn.functional as F

BATCH, TOKENS, CHANNELS, CLASSES, DENOISING = 8, 144, 320, 80, 40


class Attention(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(d, d) for _ in range(4))

    def forward(self, q, k, v, bias=None):
        split = lambda x: x.unflatten(-1, (8, -1)).transpose(1, 2)
        x = F.scaled_dot_product_attention(split(self.q(q)), split(self.k(k)), split(self.v(v)), attn_mask=bias)
        return self.o(x.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    def __init__(self, d, cross):
        super().__init__()
        self.attention = Attention(d)
        self.cross = Attention(d) if cross else None
        self.ffn = nn.Sequential(nn.Linear(d, 4 * d), nn.ReLU(), nn.Linear(4 * d, d))
        self.norms = nn.ModuleList(nn.LayerNorm(d) for _ in range(3 if cross else 2))

    def forward(self, x, position, memory=None, placed=None, bias=None):
        x = self.norms[0](x + self.attention(x + position, x + position, x, bias))
        if self.cross:
            x = self.norms[1](x + self.cross(x + position, placed, memory))
        return self.norms[-1](x + self.ffn(x))


class Heads(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.norm, self.classes = nn.LayerNorm(d), nn.Linear(d, CLASSES)
        self.box = nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, d), nn.ReLU(), nn.Linear(d, 4))

    def forward(self, x):
        x = self.norm(x)
        return self.classes(x), self.box(x).sigmoid()


class Net(nn.Module):
    def __init__(self, d, layers):
        super().__init__()
        self.project = nn.Linear(CHANNELS, d)
        self.encoder = nn.ModuleList(Layer(d, False) for _ in range(layers))
        self.decoder = nn.ModuleList(Layer(d, True) for _ in range(layers))
        self.heads, self.dense = Heads(d), Heads(d)
        self.position = nn.Sequential(nn.Linear(2 * d, d), nn.ReLU(), nn.Linear(d, d))

    def forward(self, features, place, content, waves, bias):
        memory = self.project(features)
        for layer in self.encoder:
            memory = layer(memory, place)
        said, position, placed, x = [self.dense(memory)], self.position(waves), memory + place, content
        for layer in self.decoder:
            x = layer(x, position, memory, placed, bias)
            said.append(self.heads(x))
        return said


def measure(d, layers, queries, seconds):
    torch.manual_seed(1)
    net, all_queries = Net(d, layers), queries + DENOISING
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-5)
    features, place = torch.rand(BATCH, TOKENS, CHANNELS), torch.rand(1, TOKENS, d)
    content, waves = torch.rand(BATCH, all_queries, d), torch.rand(BATCH, all_queries, 2 * d)
    bias = torch.zeros(BATCH, 1, all_queries, all_queries)
    bias[:, :, DENOISING:, :DENOISING] = -1e30
    count = lambda i: TOKENS if i == 0 else all_queries
    gradients = [[torch.rand(BATCH, count(i), n) for n in (CLASSES, 4)] for i in range(layers + 1)]

    def step():
        said = net(features, place, content, waves, bias)
        sum((y * g).sum() for out, grads in zip(said, gradients) for y, g in zip(out, grads)).backward()
        nn.utils.clip_grad_norm_(net.parameters(), .1)
        optimiser.step()
        optimiser.zero_grad()

    step()
    begun, steps = time.time(), 0
    while time.time() - begun < seconds:
        step()
        steps += 1
    return steps * BATCH / (time.time() - begun)


seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 20
for d, layers, queries in ((192, 6, 60), (128, 3, 50)):
    print(f"d_model {d}, {layers} + {layers} layers, {queries} queries, {DENOISING} for denoising, batch {BATCH}: {measure(d, layers, queries, seconds):.1f} pictures/s")
