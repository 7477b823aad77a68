"""What moved, on its page: the hash of its measures, its tables and its pictures."""
import importlib.util

from zu.book import representations

PLAIN = "def f(x):\n    return x + 1\n\ndef g(x):\n    return f(x) * 2\n"
SAID = ('def f(x):\n    """Add one."""\n    # to what is given\n    return x + 1  # one\n\n'
        'def g(x):\n    return (\n        f(x) * 2)\n')


def functions(text, tmp_path, name):
    """The functions f and g of a module with a source of its own."""
    path = tmp_path / f"{name}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return [module.f, module.g]


def test_a_hash_of_measures_sees_what_they_do_and_not_what_is_said_of_them(tmp_path):
    plain, said, other = (functions(text, tmp_path, name) for name, text in (
        ("plain", PLAIN), ("said", SAID), ("other", PLAIN.replace("x + 1", "x + 2"))))
    assert representations.digest(plain) == representations.digest(said)
    assert representations.digest(plain) == representations.digest(plain[::-1])
    assert representations.digest(plain) != representations.digest(other)
    assert representations.digest(plain) != representations.digest(plain[:1])
