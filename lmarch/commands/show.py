"""Draw one attention layer: effective distances, visible pairs, and which phases training has seen.

  lmarch show rerope:window=64 [--length=512] [--trained=128] [--window=streaming:sinks=4,size=60]
                        [--architecture=prefix_decoder --prefix=100] [--head_dim=64] [--base=10000] [--out=FILE]

Prints what was derived and writes FILE.png, FILE.svg and FILE.pdf (default: the method's name).
"""

from collections.abc import Sequence
from pathlib import Path

from lmarch.command_line import no_overrides, parse, parser
from lmarch.errors import UserError


def main(arguments: Sequence[str]) -> int:
    flags = parser(__doc__)
    flags.add_argument("position", metavar="METHOD", help="a position method, with parameters if need be")
    flags.add_argument("--window", default="full", metavar="NAME:PARAMETER=VALUE,...")
    flags.add_argument("--architecture", default="causal_decoder", metavar="NAME")
    flags.add_argument("--length", type=int, default=512, metavar="T", help="tokens of the text that is drawn")
    flags.add_argument("--trained", type=int, default=128, metavar="L", help="trained length")
    flags.add_argument("--prefix", type=int, metavar="P", help="prefix length of a prefix decoder (default: T / 4)")
    flags.add_argument("--head_dim", type=int, default=64, metavar="K")
    flags.add_argument("--num_heads", type=int, default=8, metavar="H")
    flags.add_argument("--base", type=float, default=10_000.0, metavar="B", help="base of RoPE")
    flags.add_argument("--out", metavar="FILE", help="where to write, without a suffix")
    given, overrides = parse(flags, arguments)
    no_overrides(overrides)

    from lmarch.attention.spec import attention_spec
    from lmarch.registry import rounded, variant_name
    from lmarch.reporting.figures import save_figure
    from lmarch.reporting.position_figure import position_figure

    if not 1 <= given.length <= 4096:
        raise UserError(f"--length={given.length} must be in [1, 4096]: every pair is drawn")
    spec = attention_spec(
        architecture=given.architecture,
        position=given.position,
        window=given.window,
        head_dim=given.head_dim,
        num_heads=given.num_heads,
        trained_length=given.trained,
        target_length=max(given.trained, given.length),
        rope_base=given.base,
    )
    spec.check_length(given.length)
    if given.prefix is not None and (spec.mask_kind != "prefix" or given.prefix < 0):
        raise UserError(f"--prefix={given.prefix} must be 0 or more, and belongs to --architecture=prefix_decoder")
    prefix = None
    if spec.mask_kind == "prefix":
        prefix = given.length // 4 if given.prefix is None else given.prefix
    figure = position_figure(spec, given.length, given.base, prefix)
    out = Path(given.out or variant_name(given.position))
    try:
        files = save_figure(figure, out)
    except OSError as error:
        raise UserError(f"--out={out} cannot be written: {error.strerror}") from error
    print(
        f"{rounded(spec.position.method)}, window {spec.window}: largest distance {spec.largest_distance(given.length):g}"
    )
    if remark := spec.out_of_design(given.length):
        print(f"note: {rounded(remark)}")
    print("wrote " + " and ".join(map(str, files)))
    return 0
