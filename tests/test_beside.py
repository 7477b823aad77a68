"""A table of several models' scores shows each under its own name."""
import zu.book.families as families


def row(model, method, eff, **more):
    return {"model": f"{model}ForCausalLM", "method": method, "eff": eff, "gen": 50.0, "spe": 40.0,
            "ppl": 1234.56, "damage": {}} | more


def test_each_method_is_a_row_and_each_model_has_its_columns_in_the_order_of_the_rows():
    rows = [row("Zeta", "base", 100.0), row("Zeta", "memit", 60.0, damage={"1": 0.1, "2": 0.25}),
            row("Alpha", "base", 90.0), row("Alpha", "memit", 10.0, ppl=7.0)]
    table = families.beside(rows)
    assert list(table.index) == ["Base", "MEMIT"]
    assert list(table.columns.get_level_values(0)) == ["Zeta"] * 5 + ["Alpha"] * 5
    assert list(table.loc["MEMIT", "Zeta"]) == ["60", "50.0", "40.0", "1,234.6", "0.25"]
    assert list(table.loc["MEMIT", "Alpha"]) == ["10", "50.0", "40.0", "7.0", ""]


def test_a_method_that_one_model_lacks_is_an_empty_cell():
    table = families.beside([row("A", "base", 1.0), row("B", "base", 2.0), row("B", "rome", 3.0)])
    assert list(table.loc["ROME", "A"]) == [""] * 5 and table.loc["ROME", "B"]["Eff"] == "3"
