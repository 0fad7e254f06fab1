"""Cleaning of segmented and tagged captions."""

import pytest

from zhclip_openclip.datasets.captions import clean_caption, clean_captions, is_tagged

CASES = {
    "一个:m 男人:n 穿着:v 红色:n T恤:n": "一个男人穿着红色T恤",
    "一 只 狗 在 草地 上": "一只狗在草地上",
    "一只狗在草地上。": "一只狗在草地上。",
    "穿 Nike Air Max 的 人": "穿Nike Air Max的人",
    "穿:v Nike:nx Air:nx 鞋:n": "穿Nike Air鞋",
    "男人:n ，:wd 女人:n 。:wj": "男人，女人。",
    "比分:n 是:vshi 3:m ::w 2:m": "比分是3 : 2",
    "两  个   人": "两个人",
    "狗:n": "狗",
    "品牌:nike": "品牌:nike",
    "时间 12:30 开始": "时间12:30开始",
    "尺寸:xl 的 衣服": "尺寸:xl的衣服",
    "a dog on the grass": "a dog on the grass",
    "ratio:n of:p two:m": "ratio:n of:p two:m",  # no Chinese, so no tags of ours
    "": "",
    "全角　空格": "全角空格",
}


@pytest.mark.parametrize("text", CASES)
def test_clean(text):
    assert clean_caption(text) == CASES[text]


@pytest.mark.parametrize("text", [*CASES, "x:n ::w 狗:n", "狗:n n:n :w", ":n", "狗:n:n:n 猫:n:n:n", " 狗 ", "a:b 狗:b"])
def test_cleaning_twice_is_cleaning_once(text):
    once = clean_caption(text)
    assert clean_caption(once) == once


def test_lists_and_detection():
    assert clean_captions(("一 只", "狗:n")) == ["一只", "狗"]
    assert is_tagged("一:m 只:q 狗:n") and not is_tagged("一 只 狗")
