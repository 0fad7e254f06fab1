"""The hand-written Chinese class names and prompts: the English side against its source, the Chinese side for form."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[2] / "src" / "zhclip_openclip" / "data"


def load(kind, name):
    return json.loads((DATA / kind / f"{name}.json").read_text(encoding="utf-8"))


TEMPLATES = load("templates", "zh")

# Lists that the installed packages read from the downloaded data set, so that no constant holds them.
LITERAL = {
    # cifar-10-batches-py/batches.meta, label_names
    "cifar10": "airplane automobile bird cat deer dog frog horse ship truck",
    # cifar-100-python/meta, fine_label_names
    "cifar100": """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
        camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur
        dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard
        lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear
        pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark
        shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone
        television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm""",
    # dtd_key_attributes.txt of tensorflow_datasets 4.9.10
    "dtd": """banded blotchy braided bubbly bumpy chequered cobwebbed cracked crosshatched crystalline dotted fibrous
        flecked freckled frilly gauzy grid grooved honeycombed interlaced knitted lacelike lined marbled matted meshed
        paisley perforated pitted pleated polka-dotted porous potholed scaly smeared spiralled sprinkled stained
        stratified striped studded swirly veined waffled woven wrinkled zigzagged""",
    # food-101_classes.txt of tensorflow_datasets 4.9.10, in the order of sorted() as torchvision has it
    "food101": """apple_pie baby_back_ribs baklava beef_carpaccio beef_tartare beet_salad beignets bibimbap
        bread_pudding breakfast_burrito bruschetta caesar_salad cannoli caprese_salad carrot_cake ceviche cheese_plate
        cheesecake chicken_curry chicken_quesadilla chicken_wings chocolate_cake chocolate_mousse churros clam_chowder
        club_sandwich crab_cakes creme_brulee croque_madame cup_cakes deviled_eggs donuts dumplings edamame
        eggs_benedict escargots falafel filet_mignon fish_and_chips foie_gras french_fries french_onion_soup
        french_toast fried_calamari fried_rice frozen_yogurt garlic_bread gnocchi greek_salad grilled_cheese_sandwich
        grilled_salmon guacamole gyoza hamburger hot_and_sour_soup hot_dog huevos_rancheros hummus ice_cream lasagna
        lobster_bisque lobster_roll_sandwich macaroni_and_cheese macarons miso_soup mussels nachos omelette onion_rings
        oysters pad_thai paella pancakes panna_cotta peking_duck pho pizza pork_chop poutine prime_rib
        pulled_pork_sandwich ramen ravioli red_velvet_cake risotto samosa sashimi scallops seaweed_salad
        shrimp_and_grits spaghetti_bolognese spaghetti_carbonara spring_rolls steak strawberry_shortcake sushi tacos
        takoyaki tiramisu tuna_tartare waffles""",
    # torchvision.datasets.RenderedSST2.__init__
    "renderedsst2": "negative positive",
    # _LABELS in resisc45_dataset_builder.py of tensorflow_datasets 4.9.10
    "resisc45": """airplane airport baseball_diamond basketball_court beach bridge chaparral church circular_farmland
        cloud commercial_area dense_residential desert forest freeway golf_course ground_track_field harbor
        industrial_area intersection island lake meadow medium_residential mobile_home_park mountain overpass palace
        parking_lot railway railway_station rectangular_farmland river roundabout runway sea_ice ship snowberg
        sparse_residential stadium storage_tank tennis_court terrace thermal_power_station wetland""",
    # stl10_binary/class_names.txt
    "stl10": "airplane bird car cat deer dog horse monkey ship truck",
}

# Classes that are only numbered, ClassLabel(num_classes=N) in tensorflow_datasets 4.9.10, and scikit-learn's digits.
NUMBERED = {
    "digits": 10,
    "dsprites_label_orientation": 40,
    "dsprites_label_x_position": 32,
    "dsprites_label_y_position": 32,
    "smallnorb_label_azimuth": 18,
    "smallnorb_label_elevation": 9,
}

IN_CLIP_BENCHMARK = [
    "caltech101",
    "caltech101_vtab",
    "clevr_closest_object_distance",
    "clevr_count_all",
    "diabetic_retinopathy",
    "dmlab",
    "eurosat",
    "fer2013",
    "flowers",
    "gtsrb",
    "kitti_closest_vehicle_distance",
    "mnist",
    "pcam",
    "pets",
    "svhn",
]

SMALL = sorted([*LITERAL, *NUMBERED, *IN_CLIP_BENCHMARK, "voc2007"])

SAME_AS_IMAGENET1K = ["imagenet1k-unverified", "imagenetv2", "imagenet-a", "imagenet-o", "imagenet-w"]
WITH_TEMPLATES = [
    *SMALL,
    *SAME_AS_IMAGENET1K,
    "imagenet1k",
    "imagenet_sketch",
    "imagenet-r",
    "objectnet",
    "cars",
    "fgvc_aircraft",
    "country211",
    "sun397",
    "voc2007_multilabel",
]

CJK = re.compile("[\u4e00-\u9fff]")
TRADITIONAL = set(
    "貓魚鳥馬車飛機輪電視腦動門開關間東風長張個兩條這裡裏來時會說話語讀寫書畫圖國園場塊遠邊過進還選達運請謝護證試設計"
    "許論講謂識認議頭顯顏類題願顧額領頻髮發術衛術業葉藝樂樹橋檢極標構樓權歡歐殺殘氣決況沖涼淨淚減測準溝滅滿漁濃澤"
    "灣灘燈營爐爺牆獅獨獵環產畢當療癒盡監盤眾礦禮種稱穩競筆節簡籠糧紅紋紙級細終組結給統經網綠線練總績織繪繼續羅義習"
    "聖聞聲聽職脫腳臉臟興舉舊莊華萬蓋蘋藍蘭蘆蝦蟲螞補裝複見規覺觀貝負財責貨貴買費賓賣質賽贈趕跡踐軍軟較載輕輸轉農"
    "遲鄉醫釋針釣鈕鋼錄錢鍋鍵鏡鐘鐵鑰閃閉閱陽階隊際隨險雙雜離難雲靈靜響頂項順預飯飲飾餅館騎驚體鬆鬧鯊鱷鴨鴿鵝鷹鹽麥黃點齊齒龍龜"
)


def from_clip_benchmark(dataset):
    """`en_classnames.json` as it is installed, read without importing the package and torch with it."""
    package = importlib.util.find_spec("clip_benchmark")
    if package is None:
        pytest.skip("needs clip_benchmark")
    path = Path(package.origin).parent / "datasets" / "en_classnames.json"
    return json.loads(path.read_text(encoding="utf-8"))[dataset]


def english(dataset):
    return [pair[0] for pair in load("classnames", dataset)["classes"]]


def chinese(dataset):
    return [pair[1] for pair in load("classnames", dataset)["classes"]]


@pytest.mark.parametrize("dataset", LITERAL)
def test_english_is_the_published_list(dataset):
    expected = LITERAL[dataset].split()
    if dataset == "food101":
        expected = [name.replace("_", " ") for name in expected]
    assert english(dataset) == expected


@pytest.mark.parametrize("dataset", NUMBERED)
def test_english_is_the_class_number(dataset):
    assert english(dataset) == [str(number) for number in range(NUMBERED[dataset])]


@pytest.mark.parametrize("dataset", IN_CLIP_BENCHMARK)
def test_english_is_clip_benchmarks_list(dataset):
    assert english(dataset) == from_clip_benchmark(dataset)


def test_digits_are_sklearns():
    datasets = pytest.importorskip("sklearn.datasets")
    assert english("digits") == [str(name) for name in datasets.load_digits().target_names]


def test_voc2007_is_clip_benchmarks_constant():
    voc2007 = pytest.importorskip("clip_benchmark.datasets.voc2007")
    assert english("voc2007") == voc2007.object_categories


def test_flowers_differ_from_torchvision_in_three_spellings_only():
    torchvision = pytest.importorskip("torchvision.datasets")
    pairs = zip(torchvision.Flowers102.classes, english("flowers"), strict=True)
    assert [(theirs, ours) for theirs, ours in pairs if theirs != ours] == [
        ("globe-flower", "globe flower"),
        ("pink-yellow dahlia?", "pink and yellow dahlia"),
        ("ball moss", "air plant"),
    ]


@pytest.mark.parametrize("digits", ["mnist", "svhn"])
def test_digit_names_are_in_order(digits):
    assert chinese(digits) == [f"数字{digit}" for digit in range(10)]


def test_numbered_classes_say_their_value():
    assert chinese("smallnorb_label_azimuth")[::17] == ["方位角0度", "方位角340度"]
    assert chinese("smallnorb_label_elevation")[::8] == ["俯角30度", "俯角70度"]
    assert chinese("dsprites_label_orientation")[::13] == ["旋转0度", "旋转120度", "旋转240度", "旋转360度"]
    assert chinese("dsprites_label_x_position")[::31] == ["从左数第1列", "从左数第32列"]
    assert chinese("dsprites_label_y_position")[::31] == ["从上数第1行", "从上数第32行"]


def test_both_orders_of_caltech101_name_a_class_alike():
    one, other = (sorted(load("classnames", name)["classes"]) for name in ("caltech101", "caltech101_vtab"))
    assert one == other


@pytest.mark.parametrize("dataset", SMALL)
def test_file_form(dataset):
    content = load("classnames", dataset)
    assert set(content) - {"notes", "contained", "alike", "differs"} == {"dataset", "english", "classes"}
    assert content["dataset"] == dataset
    text = (DATA / "classnames" / f"{dataset}.json").read_text(encoding="utf-8")
    lines = text.partition('"classes"')[2].splitlines()
    pairs = [line.strip().rstrip(",") for line in lines if line.strip().startswith('["')]
    assert [json.loads(line) for line in pairs] == content["classes"], "one pair a line"


@pytest.mark.parametrize("dataset", SMALL)
def test_chinese_names_are_clean_and_distinct(dataset):
    names = chinese(dataset)
    for name in names:
        assert not re.search(r"\s", name), name
        assert CJK.search(name), name
        assert not re.search(r"[()（）\[\]【】/，,;；]", name), name
        assert not TRADITIONAL & set(name), name
    assert len(set(names)) == len(names)


def test_every_dataset_has_templates():
    assert set(WITH_TEMPLATES) <= set(TEMPLATES)


@pytest.mark.parametrize("dataset", sorted(TEMPLATES))
def test_templates(dataset):
    templates = TEMPLATES[dataset]
    assert 2 <= len(templates) <= 40
    assert len(set(templates)) == len(templates)
    for template in templates:
        assert template.count("{c}") == 1, template
        assert template.format(c="猫") == template.replace("{c}", "猫")
        assert template == template.strip()
        assert CJK.search(template.replace("{c}", "")), template
        assert not TRADITIONAL & set(template), template


def test_imagenet_variants_of_photographs_share_one_list():
    assert 20 <= len(TEMPLATES["imagenet1k"]) <= 40
    for dataset in SAME_AS_IMAGENET1K:
        assert TEMPLATES[dataset] == TEMPLATES["imagenet1k"]
